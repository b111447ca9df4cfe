"""Many inputs of a task, read, grouped by equal shape, decoded and computed batch by batch: the engine of `zoo run` on
many pictures and of `zoo batch`. What becomes of the results is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ..errors import InvalidFileError, NotFoundError, UsageError, ZooError
from ..hookspecs import Task
from ..media.files import STDIN, InputFile, Note, read_input, refuse_stdin_twice, shown_name
from ..media.sources import Item
from ..ports.kind import BATCH, Source
from ..ports.kinds import drawn, kind_of
from .batches import BatchSize, batch_length, in_batches, part_of
from .call import Call, Result, execute, gather, options_of, task_as_asked
from .model import Model
from .products import check_resume, with_view

MOST = 100_000_000
"""The most pictures of one command."""

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
class Batch:
    """Inputs that are computed together.

    Attributes:
        indices: of its elements among all.
    """

    indices: list[int]
    call: Call


class Work:
    """The inputs of a checked call on many elements; iterate over `computed`.

    Attributes:
        number: of elements in all.
        todo: the indices of those that are to be computed: all, unless a subclass finds some of them done.
        seeds: of each element; None for a task without seeds.

    Raises:
        UsageError, InvalidFileError: options of different lengths, files of other options that cannot be read.
    """

    def __init__(self, model: Model, task_name: str, asked: Asked, note: Note):
        self.model, self.name = model, task_name
        self.task: Task = model.manifest.tasks[task_name]
        self.read_for = task_as_asked(model, task_name, asked.tile, asked.fit)
        self.asked = asked = _read_once(self.task, asked)
        self._note = note
        # Files that every batch reads again, and what was said about them.
        others = [values[0] for values in other_files(self.task, asked).values() if len(values) == 1]
        alike = [item.path for item in asked.items if len(asked.items) == 1] + [read_input(v).path for v in others]
        self._for_all = tuple(map(shown_name, alike))
        self._said: set[str] = set()
        self.number = self._count()
        self.seeds = self._draw()
        self.todo: Sequence[int] = range(self.number)
        self._kept: dict[int, InputFile] = {}
        self._size_matters = False
        self._sizes: dict[int, tuple[int, ...]] = {}  # of the files whose headers were looked at
        if asked.main:
            port = self.read_for.inputs[asked.main]
            self._size_matters = not all(isinstance(d, int) for d in port.shape[1:])

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

    def computed(self, failed: Failed, size: BatchSize | None = None) -> Iterator[tuple[Batch, Result]]:
        """The batches with their results, in order; what was computed before an error comes first.

        Args:
            failed: called with each file that could not be read and why, if the command keeps going.
            size: of the batches; None: as the command asks, or as fit the memory.
        """
        session = self.model.session(self.name)
        size = size or BatchSize(self.asked.batch_size, session.processes)
        reader = _Reader(self, failed, size)
        return in_batches(
            reader.prepare,
            lambda batch: execute(self.model, batch.call, size, one_batch=True),
            lambda batch: len(batch.indices),
            size,
            session.interrupt,
        )

    def seeds_of(self, batch: Batch) -> list[int] | None:
        """The seed of each element of a batch."""
        return None if self.seeds is None else [self.seeds[index] for index in batch.indices]

    def alone(self, batch: Batch, result: Result, place: int) -> tuple[Call, Result]:
        """The call and the result of one element of a batch, as if it had been the only one."""
        call, index = batch.call, batch.indices[place]
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


def other_files(task: Task, asked: Asked) -> dict[str, list[Any]]:
    """The files of the options other than that of the pictures: paths, or what was read already."""
    names = [o.name for o in options_of(task) if o.file and o.name != asked.main and asked.given.get(o.name)]
    values = {name: asked.given[name] for name in names}
    return {name: list(value) if isinstance(value, (list, tuple)) else [value] for name, value in values.items()}


def _read_once(task: Task, asked: Asked) -> Asked:
    """With the contents of what cannot be read again for the next batch: stdin, a file for all pictures, which may be a
    pipe, and a file with a value for each picture."""
    others = other_files(task, asked)
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


class _Reader:
    """Prepares batches: reads their pictures, and gathers their inputs."""

    def __init__(self, work: Work, failed: Failed, size: BatchSize):
        self._work, self._asked, self._failed, self._size = work, work.asked, failed, size
        self._todo = iter(work.todo)
        # The only picture may be for many seeds; else it may be passed over as one of several may.
        self._one_each = len(work.asked.items) > 1 or (
            bool(work.asked.items) and work.number == 1 and work.asked.keep_going
        )
        self._next: tuple[int, InputFile, tuple[int, ...]] | None = None  # read already; for the next batch

    def prepare(self, most: int) -> Batch | None:
        """The next batch; None at the end."""
        while True:
            indices, files = self._take(most) if self._one_each else (self._few(most), [])
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
        work, taken = self._work, []
        while len(taken) < most:
            if self._next is None:
                index = next(self._todo, None)
                if index is None:
                    break
                try:
                    file = work.read(index)
                    self._next = index, file, work.size_of(index, file)
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
        task, good = self._work.read_for, []
        name, port, model = self._asked.main, task.inputs[self._asked.main], self._work.model
        source = Source(name, port, task, model.reference, model.digest, (), lambda line: None, self._asked.fit)
        for place, (index, file) in enumerate(zip(indices, files)):
            try:
                kind_of(port).read([file], source)
            except InvalidFileError as e:
                self._failed(self._asked.items[index].shown, e)
            else:
                good.append(place)
        return good

    def _batch(self, indices: list[int], files: list[InputFile]) -> Batch:
        asked, work = self._asked, self._work
        given = {
            name: [value[i] for i in indices] if isinstance(value, (list, tuple)) and len(value) > 1 else value
            for name, value in asked.given.items()
        }
        if asked.main and asked.items:
            given[asked.main] = files or [asked.items[0].read()]
        if work.seeds is not None:
            given |= {name: [work.seeds[index] for index in indices] for name in drawn(work.task.inputs)}
        call = gather(
            work.model,
            work.name,
            given,
            tile=asked.tile,
            invert=asked.invert,
            fit=asked.fit,
            each=True,
            note=work._say,
        )
        if asked.scale:
            first = replace(call, inputs=part_of(work.task.inputs, call.inputs, slice(0, 1)))
            call = replace(call, view=with_view(work.model, first, asked.scale, None, sheet=False).view)
        return Batch(indices, call)
