"""Files and folders that systems and tools leave behind among a person's own, recognised by name."""

from __future__ import annotations

import re

_NAMES = {
    # Windows
    "thumbs.db",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "$recycle.bin",
    "recycler",
    "recycled",
    "system volume information",
    # macOS and its network folders; all others start with a dot
    "__macosx",
    "icon\r",
    "icon\uf00d",  # the same on a network folder
    "desktop db",
    "desktop df",
    "network trash folder",
    "temporary items",
    "thevolumesettingsfolder",
    "thefindbycontentfolder",
    # Linux, Android
    "lost+found",
    "lost.dir",
    # network storage: Synology, QNAP, NetApp
    "@eadir",
    "@__thumb",
    "@tmp",
    "#recycle",
    "#snapshot",
    "@recycle",
    "@recently-snapshot",
    "~snapshot",
    # tools
    "__pycache__",
    "_gsdata_",
    "_vti_cnf",
    "picasa.ini",
    "zbthumbnail.info",
    "sync.ffs_db",
}
_PATTERN = re.compile(r"\.|~\$|found\.\d{3}$")  # dot files; locks of Office; the folders that chkdsk makes


def left_behind(name: str) -> bool:
    """Whether a file or folder of this name is passed over: dot files and dot folders, `__MACOSX`, `Thumbs.db`, …

    Args:
        name: without folders. Upper and lower case are alike, as on the systems that make most of these names.
    """
    folded = name.casefold()
    return folded in _NAMES or _PATTERN.match(folded) is not None
