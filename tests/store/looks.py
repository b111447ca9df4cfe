"""What several of the store's tests compare."""

import hashlib
from pathlib import Path

from zoo.store.store import Store


def tree(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


def assert_only_right_models_are_visible(store: Store) -> None:
    for installed in store.installed():
        assert store.verify(installed) == []
    for blob in store.blobs.folder.glob("*"):
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
