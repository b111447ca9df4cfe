"""What systems and tools leave behind, and what looks like it but is a person's own."""

import pytest

from zoo.system.leftovers import left_behind


@pytest.mark.parametrize("name", [
    ".DS_Store", "._cat.png", ".ipynb_checkpoints", "__MACOSX", "Icon\r", "Icon\uf00d", "Desktop DB", "Thumbs.db",
    "ehthumbs.db", "Desktop.ini", "$RECYCLE.BIN", "RECYCLER", "System Volume Information", "found.000", "lost+found",
    "LOST.DIR", "@eaDir", ".@__thumb", "@__thumb", "#recycle", "~snapshot", "~$cats.docx", "Picasa.ini", "__pycache__",
])  # fmt: skip
def test_left_by_systems_and_tools(name):
    assert left_behind(name)


@pytest.mark.parametrize("name", [
    "cat", "train", "icon", "icon.png", "thumbs", "desktop", "found.png", "recycle", "@cat", "#1", "~cat.png", "_cat",
    "MACOSX", "snapshot", "$1.png",
])  # fmt: skip
def test_a_persons_own(name):
    assert not left_behind(name)
