"""What a disk may hold after a power loss: recorded file operations, cut anywhere, with what was not synced lost.

`record` runs a command under tests/recording_calls.c. `Trace.states` gives the trees that may be found after a loss of
power at any moment. Nothing is assumed about the file system but this: each operation on names takes effect as a whole
or not at all; it is certain to have taken effect once a folder that it changed was synced, and what was written to a
file once that file was synced. Until then each operation may have been lost by itself, whatever came before or after.
"""

import itertools
import math
import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = 0
NOW = -1  # the modification time of what the command wrote
Contents = tuple[bytes, int] | str | None  # bytes and modification time; where a link leads to; None for a folder
Tree = dict[str, Contents]  # by relative path
Names = dict[tuple[int, str], int | None]  # of a node in a folder; None: no longer there


@dataclass(frozen=True)
class Change:
    """An operation: on names, or on a file's contents (`edit`: offset and bytes), size or time."""

    names: Names
    node: int | None = None
    call: str = ""
    number: int = 0
    data: bytes = b""
    path: str = ""

    @property
    def synced_with(self) -> set[int | None]:
        """The nodes of which each, when synced, makes this certain."""
        return {folder for folder, _ in self.names} | {self.node}


@dataclass(frozen=True)
class Sync:
    node: int
    is_folder: bool


ACKNOWLEDGED = object()


def build(source: Path, library: Path) -> Path:
    """Compiles the library that records."""
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def record(
    library: Path, root: Path, command: list[object], log: Path, *, killed_after: int = 0, **environment: str
) -> "Trace":
    """Runs a command and records what it does below `root`.

    Args:
        killed_after: first run it until it has done so much, and kill it; what it did is part of the trace.
    """
    before = _Disk(root)
    log.unlink(missing_ok=True)
    variables = {"LD_PRELOAD": str(library), "RECORD_TO": str(log), "RECORD_ROOT": str(root), **environment}

    def run(**more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            list(map(str, command)),
            env=os.environ | variables | more,
            capture_output=True,
            text=True,
            cwd=root,
            check=False,
        )

    assert not killed_after or run(RECORD_STOP=str(killed_after)).returncode == 137
    done = run()
    assert done.returncode == 0, done.stderr
    trace = Trace(before, _read(log.read_bytes()), root)
    ours, theirs = trace.tree(len(trace.steps)), tree_of(root)
    assert ours.keys() == theirs.keys(), "an operation on names was not recorded"
    for name, contents in ours.items():
        if not isinstance(contents, tuple):
            assert theirs[name] == contents, f"a change of {name} was not recorded"
            continue
        data, time = contents
        assert theirs[name][0] == data, f"a change of {name} was not recorded"
        assert time == NOW or theirs[name] == contents, f"the time of {name} was not recorded"
    return trace


def _read(log: bytes) -> Iterator[tuple[list[str], bytes]]:
    at = 0
    while at < len(log):
        end = log.index(b"\n", at)
        fields, at = log[at:end].decode().split("\t"), end + 1
        size = int(fields[3]) if fields[0] == "write" else 0
        yield fields, log[at : at + size]
        at += size


def tree_of(root: Path) -> Tree:
    return {str(path.relative_to(root)): contents_of(path) for path in root.rglob("*")}


def contents_of(path: Path) -> Contents:
    if path.is_symlink():
        return str(path.readlink())
    return None if path.is_dir() else (path.read_bytes(), int(path.stat().st_mtime))


class _Disk:
    """The nodes of a tree on the disk, by inode; `names` says where they are."""

    def __init__(self, root: Path):
        self.root = root
        self.nodes = {root.stat().st_ino: ROOT}
        self.contents: dict[int, Contents] = {ROOT: None}
        self.names: Names = {}
        for path in sorted(root.rglob("*")):
            inode = path.lstat().st_ino
            if inode not in self.nodes:
                node = self.nodes[inode] = len(self.nodes)
                self.contents[node] = contents_of(path)
            self.names[self.nodes[path.parent.stat().st_ino], path.name] = self.nodes[inode]


class Trace:
    """What a command did, step by step, and the trees it may leave."""

    def __init__(self, before: _Disk, records: Iterable[tuple[list[str], bytes]], root: Path):
        self.before, self.root = before, root
        self.contents = dict(before.contents)
        self.steps: list[Change | Sync | object] = []
        nodes, names, fresh = dict(before.nodes), dict(before.names), itertools.count(len(before.nodes))
        for (call, *fields), data in records:
            step = self._step(call, fields, data, nodes, names, fresh)
            if isinstance(step, Change):
                names |= step.names
            self.steps.append(step)

    def _step(self, call, fields, data, nodes: dict[int, int], names: Names, fresh) -> Change | Sync | object:
        def place(path: str) -> tuple[int, str]:
            parts = PurePosixPath(path).relative_to(self.root).parts
            folder = ROOT
            for part in parts[:-1]:
                folder = names[folder, part]
            return folder, parts[-1]

        match call, fields:
            case "acknowledge", _:
                return ACKNOWLEDGED
            case (("create" | "mkdir"), [inode, path]):
                node = nodes[int(inode)] = next(fresh)
                self.contents[node] = None if call == "mkdir" else (b"", NOW)
                return Change({place(path): node}, path=path)
            case "symlink", [inode, target, path]:
                node = nodes[int(inode)] = next(fresh)
                self.contents[node] = target
                return Change({place(path): node}, path=path)
            case "unlink", [_, path]:
                return Change({place(path): None}, path=path)
            case "link", [one, other]:
                return Change({place(other): names[place(one)]}, path=other)
            case "rename", [one, other]:
                return Change({place(one): None, place(other): names[place(one)]}, path=other)
            case "exchange", [one, other]:
                return Change({place(one): names[place(other)], place(other): names[place(one)]}, path=other)
            case "sync", [inode, *_]:
                node = nodes[int(inode)]
                return Sync(node, self.contents[node] is None)
            case _, [inode, number, _]:
                return Change({}, nodes[int(inode)], call, int(number), data)
        raise AssertionError(call)

    def without_syncs(self, *, of_folders: bool) -> "Trace":
        """The same, had the command synced no folder, or no file."""
        other = object.__new__(Trace)
        other.__dict__ |= self.__dict__
        other.steps = [s for s in self.steps if not (isinstance(s, Sync) and s.is_folder == of_folders)]
        return other

    @property
    def acknowledged_at(self) -> int:
        """The number of steps after which the command has said that it has succeeded: its last output, or its end."""
        said = [n for n, step in enumerate(self.steps) if step is ACKNOWLEDGED]
        return said[-1] if said else len(self.steps)

    def tree(self, cut: int, lost: frozenset[int] = frozenset()) -> Tree:
        """What is found after the first `cut` steps, without the lost ones."""
        names, edits = dict(self.before.names), {}
        for number, step in enumerate(self.steps[:cut]):
            if isinstance(step, Change) and number not in lost:
                names |= step.names
                edits.setdefault(step.node, []).append(step)
        children: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), node in names.items():
            if node is not None:
                children.setdefault(folder, []).append((name, node))
        tree: Tree = {}
        waiting = [(ROOT, "")]
        while waiting:
            folder, prefix = waiting.pop()
            for name, node in children.get(folder, []):
                contents = self.contents[node]
                tree[prefix + name] = (
                    _edited(*contents, edits.get(node, [])) if isinstance(contents, tuple) else contents
                )
                if contents is None:
                    waiting.append((node, f"{prefix}{name}/"))
        return dict(sorted(tree.items()))

    def states(self, ignore: tuple[str, ...] = (), begin: int = 1) -> Iterator[tuple[int, frozenset[int]]]:
        """Every cut with: nothing lost, all that may be lost, each by itself, and all but each.

        Args:
            ignore: names of folders; operations on names in them are never lost, since nothing depends on them.
            begin: the first cut.
        """
        certain = [math.inf] * len(self.steps)
        for number, step in enumerate(self.steps):
            if isinstance(step, Sync):
                for earlier, change in enumerate(self.steps[:number]):
                    if isinstance(change, Change) and step.node in change.synced_with:
                        certain[earlier] = min(certain[earlier], number)
        for cut in range(begin, len(self.steps) + 1):
            open_ = [
                n
                for n, step in enumerate(self.steps[:cut])
                if isinstance(step, Change) and certain[n] >= cut
                if not any(f"/{name}/" in step.path for name in ignore)
            ]
            every = frozenset(open_)
            yield cut, frozenset()
            yield cut, every
            for number in open_:
                yield cut, frozenset({number})
                yield cut, every - {number}


def _edited(data: bytes, time: int, edits: list[Change]) -> tuple[bytes, int]:
    for edit in edits:
        match edit.call:
            case "write":
                data = data.ljust(edit.number, b"\0")
                data = data[: edit.number] + edit.data + data[edit.number + len(edit.data) :]
            case "truncate":
                data = data[: edit.number].ljust(edit.number, b"\0")
            case "time":
                return _edited(data, edit.number, edits[edits.index(edit) + 1 :])
        time = NOW
    return data, time


def write_tree(tree: Tree, root: Path) -> None:
    """Writes a tree into an empty folder."""
    for name, contents in tree.items():
        path = root / name
        if contents is None:
            path.mkdir()
        elif isinstance(contents, str):
            path.symlink_to(contents)
        else:
            path.write_bytes(contents[0])
            if contents[1] != NOW:
                os.utime(path, (contents[1], contents[1]))
