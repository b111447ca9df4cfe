"""A training's log: losses and figures as lines of JSON, and TensorBoard's events if requested."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StoreError
from ..system.files import write_atomically
from ..text import safe_text

if TYPE_CHECKING:
    from .watch import Look

LOG = "log.jsonl"


class Log:
    """Writes `log.jsonl`, one line every tenth step and every checkpoint, and TensorBoard's events if requested.

    A resumed run's log continues from its checkpoint: what a killed run logged after that is dropped.
    """

    def __init__(self, folder: Path, tensorboard: Path | None, start: int):
        path = folder / LOG
        try:
            folder.mkdir(parents=True, exist_ok=True)
            kept = [line for line in read_log(path) if line["step"] <= start] if start else []
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
            self.file = path.open("a")
        except OSError as e:
            raise StoreError(f"cannot write {safe_text(e.filename or path)}: {e.strerror}") from None
        self.events = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(tensorboard), purge_step=start + 1)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        if self.events:
            self.events.close()

    def write(self, step: int, losses: Mapping[str, float], look: "Look | None" = None) -> None:
        held_out = {f"held_out_{name}": value for name, value in look.held_out.items()} if look else {}
        held_out |= {name: value for name, value in look.own.items() if name not in losses} if look else {}
        self.file.write(json.dumps({"step": step, **losses, **held_out}) + "\n")
        self.file.flush()
        if self.events:
            for name, value in {**losses, **held_out}.items():
                self.events.add_scalar(name, value, step)
            if look and look.pictures is not None:
                self.events.add_image("sheet", look.pictures, step, dataformats="HWC")
            for name, pixels in look.own_pictures.items() if look else ():
                self.events.add_image(name, pixels, step, dataformats="HWC")


def read_log(path: Path) -> list[dict[str, Any]]:
    """A log's lines, without an incomplete last one."""
    lines = []
    with suppress(FileNotFoundError, json.JSONDecodeError):
        for line in path.read_text().splitlines():
            lines.append(json.loads(line))
    return lines
