"""Names: patterns for names and digests, and the files of a bundle.

Both the contract and the file formats need them; `zoo list` reads registries without loading the whole contract.
"""

import re
from typing import Annotated

from msgspec import Meta

MANIFEST = "model.yaml"
GOLDEN = "golden.safetensors"
CARD = "README.md"
EXPORT = "export.json"  # what `zoo export` says about a folder that it wrote

# Patterns end in \Z, since `$` also matches before a final newline.
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
Name = Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
PORT_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
PortName = Annotated[str, Meta(pattern=rf"^{PORT_NAME.pattern}\Z")]  # also for tasks and metrics
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
# A bundle's files are directly in its folder: no separators, no leading dot, nothing that Windows reads differently.
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")]
Line = Annotated[str, Meta(min_length=1, max_length=300, pattern=r"^[^\n\r]*\Z")]
Text = Annotated[str, Meta(max_length=2000)]
Size = Annotated[int, Meta(ge=0, le=1 << 50)]
Version = Annotated[int, Meta(ge=1, le=10**9)]
License = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.+() -]{1,100}\Z")]  # SPDX expression


def graph_file(task: str) -> str:
    """The name of a task's graph in its bundle."""
    return f"{task}.onnx"
