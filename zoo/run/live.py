"""Live calls: one request after the other from a source that may be ahead of the model, such as what somebody types."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import UsageError
from ..hookspecs import Task
from ..ports.label import labels_of
from ..ports.text import main_text
from ..text import safe_text
from .call import options_of

if TYPE_CHECKING:
    from .results import Outputs

T = TypeVar("T")

MAX_LINE_BYTES = 1 << 20


class Newest(Generic[T], Iterator[T]):
    """What an iterable gives, read in a thread; of what came since the last `next`, only the newest.

    The last element is always given. An error of the iterable is raised after that.

    Attributes:
        dropped: how many elements were left out before the one that `next` gave last.
    """

    def __init__(self, items: Iterable[T]):
        self.dropped = 0
        self._left_out = 0
        self._waiting: list[T] = []
        self._ended = False
        self._error: BaseException | None = None
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(items,), name="zoo-live", daemon=True)
        self._thread.start()

    def _read(self, items: Iterable[T]) -> None:
        try:
            for item in items:
                with self._news:
                    self._left_out += len(self._waiting)
                    self._waiting = [item]
                    self._news.notify()
        except BaseException as e:
            self._error = e
        with self._news:
            self._ended = True
            self._news.notify()

    def __next__(self) -> T:
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._ended)
            if self._waiting:
                self.dropped = self._left_out
                return self._waiting.pop()
        if self._error:
            error, self._error = self._error, None
            raise error
        raise StopIteration


class Live(Iterator["Outputs"]):
    """The outputs of one request after the other; see `zoo.Model.live`.

    Attributes:
        request: the request that the last outputs, or the last error, came from.
        seconds: how long its call took.
        dropped: how many requests were left out so far.
    """

    request: Any = None
    seconds: float = 0.0

    def __init__(self, run: Callable[..., Outputs], task: Task, requests: Any, latest: bool, ports: Mapping[str, Any]):
        self._run, self._task, self._ports = run, task, ports
        # A queue: None in it is the end.
        items: Iterable[Any] = requests if isinstance(requests, Iterable) else iter(requests.get, None)
        self._requests = Newest(items) if latest else iter(items)

    @property
    def dropped(self) -> int:
        return self._requests.dropped if isinstance(self._requests, Newest) else 0

    def __next__(self) -> Outputs:
        self.request = next(self._requests)
        given = self.request if isinstance(self.request, Mapping) else {main_port(self._task): self.request}
        start = time.perf_counter()
        try:
            return self._run(**{**self._ports, **given})
        finally:
            self.seconds = time.perf_counter() - start


def main_port(task: Task) -> str:
    """The input that a request means which is not a mapping: the text, else the label, else the picture or tokens, else
    the first input."""
    if text := main_text(task.inputs):
        return text
    if labels := labels_of(task.inputs):
        return labels[0]
    return next((option.name for option in options_of(task) if option.positional), next(iter(task.inputs)))


def split_lines(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The lines of a stream, each as soon as it is there, without its end; the rest after the last one is a line, too.

    Args:
        read: gives at most that many bytes, as soon as there are any; none at the end.
    """
    rest = b""
    while data := read(1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
        if len(rest) > MAX_LINE_BYTES:
            rest = rest[: MAX_LINE_BYTES + 1]  # it is refused when its end comes
    if rest:
        yield rest


def given_in(line: bytes, task_name: str, task: Task) -> dict[str, Any]:
    """The options in a line, for `zoo.run.call.gather`: a JSON object of them, or the value of `main_port`.

    Raises:
        UsageError: the line is not UTF-8, not JSON, too long, or a value has another type than its option takes.
    """
    import json

    if len(line) > MAX_LINE_BYTES:
        raise UsageError(f"the line has more than {MAX_LINE_BYTES >> 20} MiB")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise UsageError("the line is not UTF-8") from None
    options = {option.name: option for option in options_of(task)}
    if not text.lstrip().startswith("{"):
        port = main_port(task)
        value: Any = text.strip("\r")
        if port in options and options[port].type is not str:  # only a seed is left
            try:
                value = options[port].type(value)
            except ValueError:
                raise UsageError(f"{port} '{safe_text(value)[:80]}' is not a number") from None
        found = {port: value}
    else:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise UsageError(f"the line is not JSON: {safe_text(e)}") from None
    given = {}
    for name, value in found.items():
        option = options.get(name)
        if option is None:
            raise UsageError(f"{task_name} has no input '{safe_text(name)[:80]}'; it takes {', '.join(options)}")
        values = value if isinstance(value, list) else [value]
        takes = (int, float) if option.type is float else (option.type,) if option.file else (int, float, str)
        takes = (int,) if option.type is int else takes
        if not values or any(isinstance(v, bool) or not isinstance(v, takes) for v in values):
            kinds = {(int,): "a whole number", (int, float): "a number", (str,): "a path"}
            raise UsageError(f"{name} must be {kinds.get(takes, 'text or a number')}, or a list of these")
        if option.file and not option.multiple and len(values) > 1:
            raise UsageError(f"{task_name} takes one file for {name}, not {len(values)}")
        given[name] = (values if option.multiple else values[0]) if option.file else value
    return given
