"""A call on many pictures: each output gets a name that follows its input, or a row of a table.

Nothing is kept: pictures are read when their batch is prepared, and written when it is done. Each file records how it
can be made again, as if it had been made by a call of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidFileError, NotFoundError, UsageError, ZooError
from ..hookspecs import Task
from ..media.files import STDIN, Note, read_input
from ..media.sources import Stack, find
from ..ports.kinds import kind_of
from ..system.files import FilesTogether, make_folder
from ..system.paths import user_path
from ..text import safe_text
from .call import Result
from .model import Model
from .naming import check_placeholders, fill, label_of, placeholders, refuse_same
from .outputs import check_out, write_outputs
from .tables import Table, check_table, is_table
from .work import Asked, Batch, Failed, Work, other_files

__all__ = ["Asked", "Made", "Many", "find"]

MAX_KEPT = 16 << 20
"""The bytes of files that are kept from looking at them until their turn, so that small ones are read once."""


@dataclass(frozen=True)
class Made:
    """A batch that was computed and written."""

    count: int
    paths: list[str]
    result: Result


class Many(Work):
    """A checked call on many pictures; iterate over `run`.

    Attributes:
        number: of pictures in all.
        todo: the indices of those that are to be made: all, or what `resume` did not find.
        seed: of the first picture; None for a task without seeds, and for a list of them.

    Raises:
        UsageError, NotFoundError, InvalidFileError, StoreError: before anything is computed: a name that cannot be
            filled or is not unique, options of different lengths, files that cannot be read.
    """

    def __init__(self, model: Model, task_name: str, asked: Asked, note: Note):
        task = model.manifest.tasks[task_name]
        self.table = is_table(asked.out)
        if self.table:
            check_table(task_name, task, asked.out)
        else:
            check_template(task_name, task, asked.out, bool(asked.items))
        super().__init__(model, task_name, asked, note)
        self.seed = self.seeds.start if isinstance(self.seeds, range) else None
        self._names = self._all_names()
        self._table: Table | None = None
        if self.table:
            self._refuse_to_overwrite()  # before it is opened
        if asked.resume:
            self._keep_what_is_there()
        if not self.table:
            self._refuse_to_overwrite()

    def check_files(self, looked_at: Callable[[], object]) -> None:
        """Looks at the header of every picture that is to be read, and at the files of other options.

        Args:
            looked_at: called after each.

        Raises:
            ZooError: the first one's trouble, and how many more there are.
        """
        asked = self.asked
        for name, values in other_files(self.task, asked).items():
            for file in map(read_input, values):
                if port := self.read_for.inputs.get(name):
                    kind_of(port).look(file, port)
        if not asked.main or asked.keep_going:
            return
        port = self.read_for.inputs[asked.main]
        troubles: list[ZooError] = []
        seen: set[Stack] = set()
        room = MAX_KEPT
        for index in self.todo if len(asked.items) > 1 else range(1):
            stack = asked.items[index].stack
            if stack and stack in seen:  # all pictures of an array are alike
                looked_at()
                continue
            try:
                if stack:
                    seen.add(stack)
                    stack.check_length()
                file = asked.items[index].read()
                self._sizes[index] = kind_of(port).look(file, port)
                room -= len(file.data)
                if room >= 0:
                    self._kept[index] = file
            except (NotFoundError, InvalidFileError) as e:
                troubles.append(e)
            looked_at()
        if troubles:
            more, them = "", "it"
            if len(troubles) > 1:
                more, them = f"; there are problems with {len(troubles) - 1:,} more", "them"
            raise type(troubles[0])(f"{troubles[0]}{more}; --keep-going passes {them} over")

    def run(self, failed: Failed) -> Iterator[Made]:
        """Computes and writes batch by batch; what was written before an error or Ctrl-C stays.

        Args:
            failed: called with each file that could not be read and why, if the command keeps going.
        """
        batches = self.computed(failed)
        if self.table:
            table = self._table or Table(self.asked.out, self.task, resume=self.asked.resume)
            try:
                for batch, result in batches:
                    names = [self._names[index] for index in batch.indices]
                    table.write(names, self.seeds_of(batch), result.outputs)
                    yield Made(len(batch.indices), [], result)
            finally:
                table.close()
            return
        with FilesTogether() as files:
            for batch, result in batches:
                yield Made(len(batch.indices), self._write(batch, result, files), result)

    def _all_names(self) -> Sequence[str]:
        """The name of each picture's output, with `{label}` left out if the task gives it; in a table, the first
        column."""
        if len(self.asked.items) == self.number:
            shown = [item.shown for item in self.asked.items]
        else:
            shown = [f"picture {index}" for index in range(self.number)]
        names = shown if self.table else [self._name(index, None) for index in range(self.number)]
        if not self.table:
            refuse_same(names, shown)
        elif len(set(names)) < len(names):
            twice = next(name for number, name in enumerate(names) if name in names[:number])
            raise UsageError(f"{safe_text(twice)} was given twice; a table has one row per picture")
        return names

    def _refuse_to_overwrite(self) -> None:
        """Refuses the name of a file that is read for one that is made, whatever links lead to it."""
        folders: dict[str, str] = {}
        read = [item.file_path for item in self.asked.items] + [file for file in self.asked.lists if file != STDIN]
        given = {_place(path, folders, follow=True): path for path in read}
        names = [self.asked.out] if self.table else (self._names[index] for index in self.todo)
        for name in names if given else ():
            if path := given.get(_place(name, folders, follow=False)):
                raise UsageError(f"--out would overwrite {safe_text(path)}, which is read; give another name")

    def _name(self, index: int, label: str | None) -> str:
        """The output of one picture; without `label`, what was given, or an underscore for what the task gives."""
        asked = self.asked
        values: dict[str, object] = {"i": index, "index": index}
        if asked.items:
            values["stem"] = asked.items[index if len(asked.items) > 1 else 0].stem
        if self.seeds is not None:
            values["seed"] = self.seeds[index]
        if "label" in placeholders(asked.out) and (where := label_of(self.task)):
            is_output, port = where
            values["label"] = label or ("_" if is_output else self._given_label(port, index))
        return fill(asked.out, values)

    def _given_label(self, port_name: str, index: int) -> str:
        port, value = self.task.inputs[port_name], self.asked.given.get(port_name, self.task.inputs[port_name].default)
        if isinstance(value, (list, tuple)):
            value = value[index if len(value) > 1 else 0]
        if value is None:
            raise UsageError(f"--out contains {{{port_name}}}; give --{port_name}")
        number = int(kind_of(port).from_value(port_name, port, value))
        return port.classes[number] if 0 <= number < len(port.classes) else "none" if number < 0 else str(number)

    def _keep_what_is_there(self) -> None:
        if self.table:
            self._table = Table(self.asked.out, self.task, resume=True)
            done = self._table.done
            self.todo = [index for index, name in enumerate(self._names) if name not in done]
            return
        where = label_of(self.task)
        if where and where[0] and "label" in placeholders(self.asked.out):
            raise UsageError(
                "--resume cannot know the names of outputs with the {label} that the task gives; leave it out"
            )
        self.todo = [index for index, name in enumerate(self._names) if not user_path(name, out=True).exists()]

    def _write(self, batch: Batch, result: Result, files: FilesTogether) -> list[str]:
        """Each picture's outputs in files of their own."""
        where = label_of(self.task)
        by_output = where[1] if where and where[0] and "label" in placeholders(self.asked.out) else None
        paths: list[str] = []
        folders: dict[str, str] = {}  # as in the name, and where it is: looked up once for its many files

        def write(target: str, data: bytes) -> list[str]:
            given, name = os.path.split(target)
            if given not in folders:
                folder = user_path(given or os.curdir, out=True)
                make_folder(folder)
                folders[given] = os.path.join(folder, "") if given else ""  # noqa: PTH118 - a string
            path = folders[given] + name
            files.write(path, data)
            return [path]

        for place, index in enumerate(batch.indices):
            call, one = self.alone(batch, result, place)
            name = self._names[index]
            if by_output:
                port = self.task.outputs[by_output]
                number = int(result.outputs[by_output][place])
                name = self._name(index, port.classes[number] if number < len(port.classes) else str(number))
            paths += write_outputs(self.model, call, one, name, write).paths
        return paths


def _place(path: str, folders: dict[str, str], *, follow: bool) -> str:
    """The path without links in its folders, and if `follow`, as that of a file to read, without a link at its end.

    Args:
        folders: those that were looked up already; there may be 100,000 files.
    """
    # A file that cannot be read is reported later, or passed over.
    full = os.path.abspath(os.path.expanduser(path) if follow else user_path(path, out=True))  # noqa: PTH100, PTH111
    folder, name = os.path.split(full)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    full = os.path.join(folders[folder], name)  # noqa: PTH118
    return os.path.realpath(full) if follow and os.path.islink(full) else full  # noqa: PTH114


def check_template(task_name: str, task: Task, out: str, files: bool) -> None:
    """Refuses a name that cannot be filled or written: see `check_placeholders` and `check_out`."""
    check_placeholders(out, task, files=files)
    example = fill(out, dict.fromkeys(placeholders(out), "0"))
    fixed = out.partition("{")[0]
    # Folders whose names have placeholders are created; others must exist, as always.
    ending = Path(example).name
    check_out(
        task_name, task, str(Path(fixed).parent / ending) if fixed and not fixed.endswith("/") else fixed + ending
    )
