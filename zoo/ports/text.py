"""Texts: UTF-8, uint8 [batch, bytes], padded with zeros. What turns bytes into tokens is inside the graph.

So a host only encodes UTF-8, and every stack gives the same tokens. The last dimension is the longest text, in bytes. A
port whose default is 0 may be left out: its text is then empty.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InvalidFileError, UsageError
from ..hookspecs import Port, Task
from ..media.files import read_input
from ..text import safe_text
from .given import text_in
from .kind import Kind, Number, Option, Read, RealInputs, Source

if TYPE_CHECKING:
    import numpy as np

MOST_BYTES = 1 << 20
"""The longest text that a port may allow."""

SAMPLES = ("a red apple", "Eis & Käse, 2 €", "it's 猫 😺")
"""For golden cases of a port without examples."""


class Text(Kind):
    name = "text"
    dtype = "uint8"
    shape = "[batch, bytes]"
    meaning = "UTF-8, padded with zeros; the last dimension is the longest text"
    ranks = (2,)
    fields = ("examples",)
    repeats = True
    asks = "TEXT"
    sample = '"a red apple"'
    codec = "bytes"
    field = "text"

    def problem(self, port: Port) -> str:
        if wrong := super().problem(port):
            return wrong
        longest = port.shape[1]
        if not isinstance(longest, int) or longest > MOST_BYTES:
            return f"the last dimension of the kind text is the longest text, 1 .. {MOST_BYTES:,} bytes, not {longest}"
        if (port.minimum, port.maximum) != (None, None) or port.default not in (None, 0):
            return "ports of the kind text have no minimum and no maximum, and no default but 0, the empty text"
        long = next((text for text in port.examples if len(text.encode()) > longest), None)
        return f"the example '{safe_text(long)[:80]}' is longer than {longest:,} bytes" if long else ""

    def bounds(self, port: Port) -> tuple[Number | None, Number | None]:
        return None, None

    def limits(self, port: Port) -> Any:
        yield f"at most {port.shape[-1]:,} bytes of UTF-8"
        if port.default is not None:
            yield "default ''"

    def range_text(self, port: Port) -> str:
        return f"at most {port.shape[-1]:,} bytes of UTF-8"

    def default(self, port: Port) -> Any:
        return None if port.default is None else ""

    # --- Values of Python ---

    def annotation(self, port: Port) -> Any:
        return str | Sequence[str]

    def from_value(self, name: str, port: Port, value: Any) -> np.ndarray:
        """A text [bytes], or several [batch, bytes]; an array is taken as it is."""
        import numpy as np

        if isinstance(value, int) and value == port.default:
            value = ""
        if isinstance(value, np.ndarray) and value.dtype.kind == "S":  # UTF-8, as NumPy keeps it
            try:
                value = np.char.decode(value, "utf-8")
            except UnicodeDecodeError:
                raise UsageError(f"{name} is not UTF-8") from None
        if isinstance(value, np.ndarray) and value.dtype.kind == "U":  # an array of texts
            value = value.tolist()
        if isinstance(value, str):
            return encoded(name, port, value)
        if isinstance(value, (list, tuple)) and value and all(isinstance(text, str) for text in value):
            return np.stack([encoded(name, port, text) for text in value])
        dtype = getattr(value, "dtype", None)
        if str(dtype) != "uint8":
            given = type(value).__name__ if dtype is None else f"an array of {dtype}"
            raise UsageError(f"{name} is {given}; it must be a text, or a list of texts")
        return super().from_value(name, port, value)

    def check_array(self, name: str, port: Port, array: np.ndarray) -> None:
        for row in array:
            try:
                text = bytes(row).rstrip(b"\0").decode()
            except UnicodeDecodeError:
                raise UsageError(f"{name} is not UTF-8") from None
            encoded(name, port, text)

    def to_json(self, port: Port, array: np.ndarray) -> list[str]:
        return texts_of(array)

    def from_request(self, name: str, port: Port, value: Any) -> Any:
        return text_in(name, value)

    def schema(self, port: Port) -> dict[str, Any]:
        return {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}

    # --- A command line ---

    def option(self, name: str, port: Port, task: Task) -> Option:
        limits = f"{self.range_text(port)}; @FILE: one per line"
        return Option(name, self.help(name, port, limits), metavar="TEXT", multiple=True)

    def read(self, given: Any, source: Source) -> Read:
        """Texts of a command line are a tuple, in which `@FILE` means the file's lines, and `@@…` a text with one `@`;
        those of a recipe are taken as they are."""
        if not isinstance(given, tuple):
            return Read({source.name: [given] if isinstance(given, str) else given})
        texts = [line for text in given for line in _lines(source.name, text)]
        for text in texts:
            encoded(source.name, source.port, text)
        return Read({source.name: texts})

    def read_once(self, name: str, port: Port, given: Any) -> Any:
        return [line for text in given for line in _lines(name, text)] if isinstance(given, tuple) else given

    def several(self, name: str, port: Port, given: Any, *, always: bool = False) -> list[Any] | None:
        if not isinstance(given, tuple):
            return super().several(name, port, given)
        texts = self.read_once(name, port, given)
        return texts if always and len(texts) > 1 else None

    def captions(self, name: str, port: Port, values: list[Any]) -> list[str]:
        texts = [safe_text(text) for text in texts_of(values)]
        if not any(texts):
            return []
        return texts if name == self.name else [f"{name} {text}" if text else "" for text in texts]

    def recorded(self, port: Port, array: np.ndarray, *, whole: bool = False) -> Any:
        texts = texts_of(array)
        return texts[0] if not whole and len(set(texts)) == 1 else texts

    # --- Hosts, and making models ---

    def host(self, port: Port) -> dict[str, Any]:
        return super().host(port) | ({} if port.default is None else {"default": ""})

    def host_sample(self, port: Port) -> str:
        """What a model's examples say is foreign text, which is not pasted into a command line: they only tell which
        text people are expected to give."""
        longest = len(SAMPLES[0])
        sample = self.sample if int(port.shape[-1]) >= longest else '"a"'
        return sample if port.default is None or port.examples else ""

    def draw_case(self, port: Port, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        import numpy as np

        known = [text for text in port.examples or SAMPLES if len(text.encode()) <= shape[-1]] or [""]
        return np.stack([encoded("", port, known[i]) for i in rng.integers(len(known), size=shape[0])])

    def real_case(self, name: str, port: Port, inputs: RealInputs) -> Any:
        known = port.examples or SAMPLES
        several = [known[(inputs.first + i) % len(known)] for i in range(len(inputs.pictures))]
        return self.from_value(name, port, several)


def encoded(name: str, port: Port, text: str) -> np.ndarray:
    """A text as the port's bytes, uint8 [bytes].

    Raises:
        UsageError: it is too long, contains a zero, or is not Unicode, as an argument that was not UTF-8.
    """
    import numpy as np

    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} '{safe_text(text)[:80]}' is not UTF-8") from None
    if b"\0" in data:
        raise UsageError(f"{name} contains a zero byte, which marks the end of a text")
    longest = int(port.shape[-1])
    if len(data) > longest:
        shown = f"'{safe_text(text[:40])}…'"
        raise UsageError(f"{name} {shown} is {len(data):,} bytes of UTF-8; this model takes at most {longest:,}")
    return np.frombuffer(data.ljust(longest, b"\0"), np.uint8)


def main_text(ports: Mapping[str, Port]) -> str | None:
    """The port that `--text` of a command for any model means: the first text, of those without a default if there are
    any."""
    names = [name for name, port in ports.items() if port.kind == Text.name]
    return next((name for name in names if ports[name].default is None), names[0] if names else None)


def refuse_no_text(task_name: str, ports: Mapping[str, Port], given: Collection[str]) -> None:
    """Refuses a call without the text that a task needs, in the words of the commands that have `--text`."""
    name = main_text(ports)
    if name and ports[name].default is None and name not in given:
        raise UsageError(f"{task_name} draws what a text says: give one with --text TEXT")


def texts_of(array: np.ndarray | Sequence[Sequence[int]]) -> list[str]:
    """The texts of uint8 [batch, bytes]. A graph may give what is not UTF-8: that is replaced by U+FFFD."""
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in array]


def _lines(name: str, text: str) -> list[str]:
    """The texts that an argument stands for."""
    if not text.startswith("@"):
        return [text]
    if text.startswith("@@"):
        return [text[1:]]
    if text == "@":
        raise UsageError(f"{name} '@' names no file; @@ starts a text that begins with an at sign")
    file = read_input(text[1:])
    try:  # a byte order mark is no part of the text, and only line feeds end a line
        lines = [line.strip() for line in file.data.decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError:
        raise InvalidFileError(f"{name}: {file.shown} is not UTF-8") from None
    if not any(lines):
        raise InvalidFileError(f"{name}: {file.shown} contains no text")
    return [line for line in lines if line]
