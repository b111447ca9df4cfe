"""Shows pictures that were written: in a terminal that can, else in the system's viewer."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from ..media import terminal
from ..media.files import Note, read_input

MOST = 20
"""The most files that are shown: each may be a window."""

PNG = b"\x89PNG"


def check_show(out: str | None, as_data: bool) -> None:
    """Refuses `--show` next to something else that writes to stdout."""
    if as_data or out == "-":
        raise UsageError(f"--show and {'--json' if as_data else '--out -'} both write to stdout; choose one")


def show(paths: Sequence[str], note: Note) -> None:
    """Shows files; says so in one line if there is no terminal, or nothing that opens them."""
    import click

    if not sys.stdout.isatty():
        note("--show does nothing: stdout is not a terminal")
        return
    if len(paths) > MOST:
        note(f"showing the first {MOST} of {len(paths)} files; --sheet puts all on one")
    protocol = terminal.protocol_of(os.environ)
    for path in paths[:MOST]:
        data = read_input(path).data if protocol else b""
        if protocol == "iterm":
            shown = terminal.as_iterm(data)
        elif protocol and data.startswith(PNG):
            shown = terminal.as_kitty(data) if protocol == "kitty" else terminal.as_sixel(data)
        elif click.launch(str(Path(path).absolute())):
            note(f"cannot open {path}: there is no program that shows pictures")
            return
        else:
            continue
        sys.stdout.flush()
        sys.stdout.buffer.write(shown)
        sys.stdout.buffer.flush()
