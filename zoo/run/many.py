"""A call on many pictures: each output gets a name that follows its input, or a row of a table.

Nothing is kept: pictures are read when their batch is prepared, and written when it is done. Each file records how it
can be made again, as if it had been made by a call of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from ..errors import InvalidFileError, NotFoundError, UsageError, ZooError
from ..hookspecs import Task
from ..media.files import STDIN, InputFile, Note, read_input, refuse_stdin_twice, shown_name
from ..media.sources import Item, Stack, find
from ..ports.kind import BATCH, Source
from ..ports.kinds import drawn, kind_of
from ..system.files import FilesTogether, make_folder
from ..system.paths import user_path
from ..text import safe_text
from .batches import BatchSize, batch_length, in_batches, part_of
from .call import Call, Result, execute, gather, options_of, task_as_asked
from .model import Model
from .naming import check_placeholders, fill, label_of, placeholders, refuse_same
from .outputs import check_out, write_outputs
from .products import check_resume, with_view
from .tables import Table, check_table, is_table

__all__ = ["Asked", "Made", "Many", "find"]

MOST = 100_000_000
"""The most pictures of one command."""

MAX_KEPT = 16 << 20
"""The bytes of files that are kept from looking at them until their turn, so that small ones are read once."""

Failed = Callable[[str, ZooError], None]


@dataclass(frozen=True)
class Asked:
    """What a command asks for.

    Attributes:
        given: as for `zoo.run.call.gather`, without the pictures of `main`.
        main: the option of the pictures; None for a task that only draws.
        items: the pictures.
        number: `-n`.
        out: a name with placeholders, or that of a table.
        tile, invert, fit: as for `zoo.run.call.gather`.
        scale: enlarge pictures for looking.
        keep_going: pass over files that cannot be read; else all are looked at before anything is computed.
        resume: only make what is missing.
        lists: the files that list the pictures; they are not overwritten.
    """

    given: Mapping[str, Any]
    main: str | None
    items: Sequence[Item]
    number: int | None
    out: str
    tile: int | None = None
    invert: bool = False
    fit: bool = False
    scale: int | None = None
    batch_size: int | None = None
    keep_going: bool = False
    resume: bool = False
    lists: Sequence[str] = ()


@dataclass(frozen=True)
class Made:
    """A batch that was computed and written."""

    count: int
    paths: list[str]
    result: Result


class Many:
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
        self.model, self.name = model, task_name
        self.task: Task = model.manifest.tasks[task_name]
        self.read_for = task_as_asked(model, task_name, asked.tile, asked.fit)
        self.asked = asked = _read_once(self.task, asked)
        self._note = note
        # Files that every batch reads again, and what was said about them.
        others = [values[0] for values in _other_files(self.task, asked).values() if len(values) == 1]
        alike = [item.path for item in asked.items if len(asked.items) == 1] + [read_input(v).path for v in others]
        self._for_all = tuple(map(shown_name, alike))
        self._said: set[str] = set()
        self.number = self._count()
        self.table = is_table(asked.out)
        if self.table:
            check_table(task_name, self.task, asked.out)
        else:
            check_template(task_name, self.task, asked.out, bool(asked.items))
        self.seeds = self._draw()
        self.seed = self.seeds.start if isinstance(self.seeds, range) else None
        self._names = self._all_names()
        self.todo: Sequence[int] = range(self.number)
        self._table: Table | None = None
        if self.table:
            self._refuse_to_overwrite()  # before it is opened
        if asked.resume:
            self._keep_what_is_there()
        if not self.table:
            self._refuse_to_overwrite()
        self._kept: dict[int, InputFile] = {}
        self._size_matters = False
        self._sizes: dict[int, tuple[int, ...]] = {}  # of the files whose headers were looked at
        if asked.main:
            port = self.read_for.inputs[asked.main]
            self._size_matters = not all(isinstance(d, int) for d in port.shape[1:])

    def check_files(self, looked_at: Callable[[], object]) -> None:
        """Looks at the header of every picture that is to be read, and at the files of other options.

        Args:
            looked_at: called after each.

        Raises:
            ZooError: the first one's trouble, and how many more there are.
        """
        asked = self.asked
        for name, values in _other_files(self.task, asked).items():
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

    def read(self, index: int) -> InputFile:
        """The file of a picture."""
        return self._kept.pop(index, None) or self.asked.items[index].read()

    def size_of(self, index: int, file: InputFile) -> tuple[int, ...]:
        """Width and height of a picture, the length of a sound, or both of a video, which all of a batch share; empty
        if the port fixes them."""
        if not self._size_matters:
            return ()
        if index in self._sizes:
            return self._sizes[index]
        item = self.asked.items[index]
        if item.stack:
            return item.stack.shape[2], item.stack.shape[1]
        assert self.asked.main
        port = self.read_for.inputs[self.asked.main]
        return kind_of(port).look(file, port)

    def run(self, failed: Failed) -> Iterator[Made]:
        """Computes and writes batch by batch; what was written before an error or Ctrl-C stays.

        Args:
            failed: called with each file that could not be read and why, if the command keeps going.
        """
        session = self.model.session(self.name)
        size = BatchSize(self.asked.batch_size, session.processes)
        reader = _Reader(self, failed, size)
        batches = in_batches(
            reader.prepare,
            lambda batch: execute(self.model, batch.call, size, one_batch=True),
            lambda batch: len(batch.indices),
            size,
            session.interrupt,
        )
        if self.table:
            table = self._table or Table(self.asked.out, self.task, resume=self.asked.resume)
            try:
                for batch, result in batches:
                    names = [self._names[index] for index in batch.indices]
                    table.write(names, self._seeds(batch), result.outputs)
                    yield Made(len(batch.indices), [], result)
            finally:
                table.close()
            return
        with FilesTogether() as files:
            for batch, result in batches:
                yield Made(len(batch.indices), self._write(batch, result, files), result)

    def _say(self, line: str) -> None:
        """Passes a line on; one about a file that is for all pictures, once."""
        if line.startswith(self._for_all):
            if line in self._said:
                return
            self._said.add(line)
        self._note(line)

    def _count(self) -> int:
        """The number of pictures, which all options with several values must agree on."""
        asked = self.asked
        if asked.number is not None and not drawn(self.task.inputs):
            raise UsageError("-n is only for tasks with a seed; this one gives the same picture every time")
        if asked.number is not None and not 1 <= asked.number <= MOST:
            raise UsageError(f"-n is {asked.number}; it must be 1 .. {MOST}")
        lengths = {name: len(v) for name, v in asked.given.items() if isinstance(v, (list, tuple))}
        lengths |= {asked.main: len(asked.items)} if asked.main and asked.items else {}
        pictures = len(asked.items) if len(asked.items) > 1 else None
        number = asked.number or pictures or max(lengths.values(), default=1)
        for name, length in lengths.items():
            if length not in (1, number):
                raise UsageError(f"{length} values of {name} for {number} pictures; give one for all, or {number}")
        return number

    def _draw(self) -> Sequence[int] | None:
        """The seed of each picture: a list, or counted up from that of the command or from a random one."""
        ports = drawn(self.task.inputs)
        given = [self.asked.given[name] for name in ports if self.asked.given.get(name) is not None]
        if self.asked.resume:
            check_resume(self.task, self.asked.given)
        seed = given[0] if given else None
        for name in ports:
            array, first = kind_of(self.task.inputs[name]).draw(name, seed, self.number, self._note)
            if first is None:
                return array.tolist()
            seed = first
        return range(seed, seed + self.number) if seed is not None else None

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

    def _seeds(self, batch: _Batch) -> list[int] | None:
        return None if self.seeds is None else [self.seeds[index] for index in batch.indices]

    def _write(self, batch: _Batch, result: Result, files: FilesTogether) -> list[str]:
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
            call, one = self._alone(batch.call, result, place, index)
            name = self._names[index]
            if by_output:
                port = self.task.outputs[by_output]
                number = int(result.outputs[by_output][place])
                name = self._name(index, port.classes[number] if number < len(port.classes) else str(number))
            paths += write_outputs(self.model, call, one, name, write).paths
        return paths

    def _alone(self, call: Call, result: Result, place: int, index: int) -> tuple[Call, Result]:
        """The call and the result of one picture of a batch, as if it had been the only one."""
        part = slice(place, place + 1)
        options = {
            name: value[place] if isinstance(value, list) and self.task.inputs[name].shape[:1] == (BATCH,) else value
            for name, value in call.options.items()
            if not kind_of(self.task.inputs[name]).drawn
        }
        length = batch_length(self.task.inputs, call.inputs)
        files = {name: given[part] if len(given) == length else given for name, given in call.files.items()}
        seed = None if self.seeds is None else self.seeds[index]
        one = replace(call, inputs={}, options=options, files=files, seed=seed, number=None)
        return one, replace(result, outputs=part_of(self.task.outputs, result.outputs, part))


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


def _other_files(task: Task, asked: Asked) -> dict[str, list[Any]]:
    """The files of the options other than that of the pictures: paths, or what was read already."""
    names = [o.name for o in options_of(task) if o.file and o.name != asked.main and asked.given.get(o.name)]
    values = {name: asked.given[name] for name in names}
    return {name: list(value) if isinstance(value, (list, tuple)) else [value] for name, value in values.items()}


def _read_once(task: Task, asked: Asked) -> Asked:
    """With the contents of what cannot be read again for the next batch: stdin, a file for all pictures, which may be a
    pipe, and a file with a value for each picture."""
    others = _other_files(task, asked)
    refuse_stdin_twice(
        [item.path for item in asked.items] + [v for values in others.values() for v in values] + list(asked.lists)
    )
    given = {
        name: kind_of(port).read_once(name, port, value) if (port := task.inputs.get(name)) else value
        for name, value in asked.given.items()
    }
    for name, values in others.items():
        read = [read_input(v) if v == STDIN or len(values) == 1 else v for v in values]
        given[name] = read if isinstance(given[name], (list, tuple)) else read[0]
    items = asked.items
    if any(item.path == STDIN for item in items):
        items = [replace(item, file=read_input(STDIN)) if item.path == STDIN else item for item in items]
    return replace(asked, given=given, items=items)


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


@dataclass(frozen=True)
class _Batch:
    indices: list[int]
    call: Call


class _Reader:
    """Prepares batches: reads their pictures, and gathers their inputs."""

    def __init__(self, many: Many, failed: Failed, size: BatchSize):
        self._many, self._asked, self._failed, self._size = many, many.asked, failed, size
        self._todo = iter(many.todo)
        self._next: tuple[int, InputFile, tuple[int, ...]] | None = None  # read already; for the next batch

    def prepare(self, most: int) -> _Batch | None:
        """The next batch; None at the end."""
        while True:
            indices, files = self._take(most) if len(self._asked.items) > 1 else (self._few(most), [])
            if not indices:
                return None
            try:
                return self._batch(indices, files)
            except InvalidFileError:
                if not (self._asked.keep_going and files):
                    raise
            good = self._decodable(indices, files)
            if len(good) == len(indices):  # something else is wrong
                return self._batch(indices, files)
            if good:
                return self._batch([indices[i] for i in good], [files[i] for i in good])

    def _few(self, most: int) -> list[int]:
        return [index for _, index in zip(range(most), self._todo)]  # not the other way: it would lose one

    def _take(self, most: int) -> tuple[list[int], list[InputFile]]:
        """Pictures of one size, unless all are scaled to the same anyway."""
        many, taken = self._many, []
        while len(taken) < most:
            if self._next is None:
                index = next(self._todo, None)
                if index is None:
                    break
                try:
                    file = many.read(index)
                    self._next = index, file, many.size_of(index, file)
                except (NotFoundError, InvalidFileError) as e:
                    if not self._asked.keep_going:
                        raise
                    self._failed(self._asked.items[index].shown, e)
                    continue
            lengths = self._next[2]
            if not taken:
                most = min(most, self._size.most(prod(lengths) if lengths else 0))
            elif taken[0][2] != lengths:
                break
            taken.append(self._next)
            self._next = None
        return [index for index, _, _ in taken], [file for _, file, _ in taken]

    def _decodable(self, indices: Sequence[int], files: Sequence[InputFile]) -> list[int]:
        """Places of the pictures that can be decoded; the others are reported."""
        assert self._asked.main
        task, good = self._many.read_for, []
        name, port, model = self._asked.main, task.inputs[self._asked.main], self._many.model
        source = Source(name, port, task, model.reference, model.digest, (), lambda line: None, self._asked.fit)
        for place, (index, file) in enumerate(zip(indices, files)):
            try:
                kind_of(port).read([file], source)
            except InvalidFileError as e:
                self._failed(self._asked.items[index].shown, e)
            else:
                good.append(place)
        return good

    def _batch(self, indices: list[int], files: list[InputFile]) -> _Batch:
        asked, many = self._asked, self._many
        given = {
            name: [value[i] for i in indices] if isinstance(value, (list, tuple)) and len(value) > 1 else value
            for name, value in asked.given.items()
        }
        if asked.main and asked.items:
            given[asked.main] = files or [asked.items[0].read()]
        if many.seeds is not None:
            given |= {name: [many.seeds[index] for index in indices] for name in drawn(many.task.inputs)}
        call = gather(
            many.model,
            many.name,
            given,
            tile=asked.tile,
            invert=asked.invert,
            fit=asked.fit,
            each=True,
            note=many._say,
        )
        if asked.scale:
            first = replace(call, inputs=part_of(many.task.inputs, call.inputs, slice(0, 1)))
            call = replace(call, view=with_view(many.model, first, asked.scale, None, sheet=False).view)
        return _Batch(indices, call)
