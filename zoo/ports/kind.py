"""What a kind of port is: everything that zoo knows of pictures, labels, seeds, … as inputs and outputs of tasks.

A kind is one file next to this one and one line in `kinds.py`. It subclasses `Kind`, which is a plain array of numbers,
and overrides what is different. No other part of zoo asks which kind a port has: it calls these methods. An exported
host is not part of zoo: it knows a closed list of codecs, and gets the rest from the kind as data (`Kind.host`).

numpy is imported inside the methods: `zoo list` reads kinds' names without it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UsageError
from ..hookspecs import Port, Task, Tile, Tolerance
from ..media.files import InputFile, Note
from ..media.tensors import encode_npy, encode_safetensors
from ..text import safe_text

if TYPE_CHECKING:
    import numpy as np

BATCH = "batch"
"""The name of the first dimension of what there is one of for each of the batch."""

MAX_BATCH = 10_000
"""Of one call: what is asked for by mistake would fill the memory."""

Number = int | float


@dataclass(frozen=True)
class Option:
    """What `zoo run` asks for a port."""

    name: str  # the key of its value in `zoo.run.call.gather`; ports may share an option
    help: str
    type: type = str  # what a word of the command line becomes
    metavar: str | None = None
    multiple: bool = False
    file: bool = False  # its values are paths, or `-` for stdin
    positional: bool = False  # files without an option may be meant for it
    shared: bool = False  # it gives several ports; those that have an option of their own may be given by that


@dataclass(frozen=True)
class Source:
    """What the value of an option is read for."""

    name: str  # of the port
    port: Port
    task: Task
    model: str  # reference of the model, for messages
    digest: str  # of the model
    given: Collection[str]  # all options that were given
    note: Note  # told, a line each, what was done to a file


@dataclass(frozen=True)
class Read:
    """What an option gave."""

    values: dict[str, Any]  # by port
    files: list[InputFile] = field(default_factory=list)  # that the values came from


@dataclass(frozen=True)
class RealInputs:
    """Real data that a port's values can be taken from, to see the activations of a graph."""

    pictures: np.ndarray  # uint8 [batch, height, width, channels]
    first: int  # how many pictures came before these
    encoded: Mapping[str, np.ndarray]  # what the model's `encode` gives for them, by port; empty without that task


class Form:
    """How outputs become files. `Values` is that of plain arrays; other forms come with their kind.

    Attributes:
        name: for messages and file names: `generate gives pictures`.
        suffixes: endings of its files; a name that zoo makes gets the first.
        shared: one file holds all outputs of this form; else each has a file of its own, and may have one for each of
            the batch (`{i}` in the name). Only such a file keeps the recipe of its making.
        printed: small outputs are printed, when no file is asked for.
    """

    name: str
    suffixes: tuple[str, ...]
    shared: bool
    printed: bool = False

    def check_name(self, task: str, ports: Sequence[str], suffix: str) -> None:
        """Refuses an ending that cannot hold these outputs; UsageError."""

    def encode(self, arrays: Mapping[str, np.ndarray], made_by: Mapping[str, str], suffix: str) -> bytes:
        """The bytes of a file of a shared form.

        Args:
            made_by: digest and reference of the model, and the task.
        """
        raise NotImplementedError(f"{self.name} have a file each")

    def encode_batch(self, batch: np.ndarray, recipe: str) -> bytes:
        """The bytes of a file of one output: the whole batch, with the recipe inside."""
        raise NotImplementedError(f"{self.name} share a file")

    def layout(self, batch: np.ndarray) -> Any:
        """What `decode_batch` must know of the batch that the file does not say; kept in the recipe."""

    def reads(self, file: InputFile) -> bool:
        """Whether a file is one that `encode_batch` may have written; told from its first bytes."""
        return False

    def recipe_of(self, file: InputFile) -> str | None:
        """The recipe in a file; None where it has none."""
        return None

    def decode_batch(self, file: InputFile, layout: Any, index: int | None) -> np.ndarray:
        """What a file that `encode_batch` wrote contains: a batch.

        Args:
            layout: what `layout` said of the whole batch, out of the recipe's JSON.
            index: the file contains this one of the batch; None: all.

        Raises:
            InvalidFileError, msgspec.ValidationError: another program changed it.
        """
        raise NotImplementedError(f"{self.name} share a file")


class Values(Form):
    """Arrays as .safetensors, or a single one as .npy; a few numbers are printed as JSON."""

    name = "values"
    suffixes = (".safetensors", ".npy")
    shared = True
    printed = True

    def check_name(self, task: str, ports: Sequence[str], suffix: str) -> None:
        if suffix == ".npy" and len(ports) > 1:
            raise UsageError(f"{task} gives {', '.join(ports)}; .npy holds one array: use .safetensors")

    def encode(self, arrays: Mapping[str, np.ndarray], made_by: Mapping[str, str], suffix: str) -> bytes:
        if suffix == ".npy":
            return encode_npy(next(iter(arrays.values())))
        return encode_safetensors(arrays, made_by)


VALUES = Values()


class Kind:
    """One kind of port. This base is an array of numbers that is given as a number and written as values.

    Attributes:
        name: as manifests have it.
        dtype: of its arrays.
        shape: its shape rule, for people; `problem` checks a port against `ranks` and `last`.
        meaning: its line in docs/bundle.md.
        since: the first zoo that knows it.
        ranks: how many dimensions its ports may have; empty: any number.
        last: the lengths that its last dimension may have; empty: any.
        repeats: a single value may stand for the whole batch.
        drawn: hosts draw a value when none is given, one after the other for a batch (`-n`).
        fed: golden cases take its values from another task that gives them, where one does.
        decides: its values are choices, of which other outputs are the consequence: `follows` of another kind.
        number: what an option's text becomes, for kinds of which a default can be set to another number.
        asks: what a command line must give for it.
        form: how outputs of the kind become files; `form_in` says it for a task.
        codec: which of the closed list of host codecs its arrays have.
        field: how a page asks for it; an older page takes one that it does not know for `data`, a file.
        shown: how a page shows it.
        sample: what stands for it in an example on a card; empty: nothing needs to be given.
    """

    name: str
    dtype: str
    shape: str
    meaning: str
    since = "0.1"
    ranks: tuple[int, ...] = ()
    last: tuple[int, ...] = ()

    repeats = False
    drawn = False
    fed = True
    decides = False
    follows = False
    number: type[int] | type[float] | None = None
    asks = "FILE"
    form: Form = VALUES
    codec: Literal["pixels", "integers", "floats", "bytes"]
    field: Literal["picture", "brush", "choice", "seed", "number", "text", "data"] = "data"
    shown: Literal["pictures", "codes", "names", "numbers"] = "numbers"
    sample = "0"

    # --- A port of this kind, as a manifest declares it ---

    def problem(self, port: Port) -> str:
        """What is wrong with a declared port; empty when nothing is."""
        if port.dtype != self.dtype:
            return f"its kind, {self.name}, is {self.dtype}, not {port.dtype}"
        if self.ranks and len(port.shape) not in self.ranks:
            return f"its kind, {self.name}, has the shape {self.shape}, not {shape_text(port.shape)}"
        if self.last and port.shape[-1] not in self.last:
            lengths = " or ".join(map(str, self.last))
            return f"the last dimension of its kind, {self.name}, is {lengths}, not {port.shape[-1]}"
        return ""

    def bounds(self, port: Port) -> tuple[Number | None, Number | None]:
        """Smallest and largest value, inclusive; None where there is no bound."""
        return port.minimum, port.maximum

    def limits(self, port: Port) -> Iterator[str]:
        """What values a port takes, in a few words each: `0 .. 9`, `default 4`."""
        if values := self.range_text(port):
            yield values
        if port.default is not None:
            yield f"default {port.default}"

    def range_text(self, port: Port) -> str:
        """`0 .. 511`, `1 or more`, `at most 8`; empty without bounds."""
        low, high = self.bounds(port)
        if low is None:
            return "" if high is None else f"at most {high}"
        return f"{low} or more" if high is None else f"{low} .. {high}"

    def describe(self, port: Port) -> str:
        """`int64 [batch], 0 .. 2`."""
        limits = self.range_text(port)
        shape = f" {shape_text(port.shape)}" if port.shape else ""
        return f"{port.dtype}{shape}" + (f", {limits}" if limits else "")

    def form_in(self, ports: Mapping[str, Port]) -> Form:
        """How an output of the kind becomes a file, among the other outputs of its task."""
        return self.form

    # --- Values of Python ---

    def from_value(self, name: str, port: Port, value: Any) -> np.ndarray:
        """An array of the port's dtype, where nothing is lost by it; one number stays one.

        Raises:
            UsageError: another type, or a number that the dtype cannot hold.
        """
        import numpy as np

        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise UsageError(f"{name} is {value}; it must be {self.range_text(port) or 'an int64'}")
        try:
            array = np.asarray(value)
        except ValueError:
            raise UsageError(f"{name} has rows of different lengths; give an array") from None
        if array.dtype == port.dtype:
            return array
        if array.dtype.kind not in ("iu" if port.dtype == "int64" else "iuf"):
            given = type(value).__name__ if array.dtype == object or array.ndim == 0 else str(array.dtype)
            raise UsageError(f"{name} is {safe_text(given)}; it must be {self.describe(port)}")
        if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
            raise UsageError(f"{name} is {array.max()}, more than an int64 holds")
        return array.astype(port.dtype)

    def check_array(self, name: str, port: Port, array: np.ndarray) -> None:
        """Refuses an array of the right dtype and shape that the port cannot take; UsageError."""
        import numpy as np

        if port.dtype == "float32" and not np.isfinite(array).all():
            raise UsageError(f"{name} contains NaN or infinity")
        low, high = self.bounds(port)
        held = np.dtype(port.dtype).type  # 0.1 in the manifest is not quite the float32 that stands for it
        below = low is not None and array.min() < held(low)
        above = high is not None and array.max() > held(high)
        if below or above:
            value = (array.min() if below else array.max()).item()
            shown = f"{value:.6g}" if isinstance(value, float) else str(value)
            raise UsageError(f"{name} is {shown}; it must be {self.range_text(port)}")

    def to_json(self, port: Port, array: np.ndarray) -> Any:
        """An output as JSON, for people."""
        return array.tolist()

    # --- A command line ---

    def option(self, name: str, port: Port, task: Task) -> Option | None:
        """The option of `zoo run` that gives the port; None where none can."""
        return Option(name, self.help(name, port, self.range_text(port)))

    def help(self, name: str, port: Port, limits: str) -> str:
        """The help of an option: what the model says of the port, then its limits and default."""
        said = safe_text(port.summary)
        said = said[:1].upper() + said[1:]
        default = "" if port.default is None else f"default: {port.default}"
        notes = "; ".join(part for part in (limits, default) if part)
        return f"{said or name.capitalize()}" + (f"  [{notes}]" if notes else "")

    def read(self, given: Any, source: Source) -> Read:
        """The port's values out of what its option gave. Files are read here, and only here.

        Raises:
            NotFoundError, InvalidFileError, UsageError: one line.
        """
        return Read({source.name: given})

    def check_together(self, name: str, files: Mapping[str, list[InputFile]], task: Task) -> None:
        """Refuses files that do not fit those of the other inputs; InvalidFileError."""

    def missing(self, name: str, port: Port, task: Task) -> tuple[str, str]:
        """The option to name when a value is missing, and what it takes."""
        return name, self.asks

    def draw(self, name: str, given: Any, batch: int, note: Note) -> tuple[np.ndarray, int]:
        """Values for a whole batch, out of the first one or out of chance, and the first one; for a `drawn` kind."""
        raise NotImplementedError(f"a {self.name} is not drawn")

    # --- Comparing ---

    def compare(self, expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance) -> tuple[float, bool, str]:
        """The largest difference, whether it is within the tolerance, and what differs in words.

        Called with arrays of the same dtype and shape that are not identical.
        """
        import numpy as np

        if np.issubdtype(actual.dtype, np.integer):
            worst = float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max())
            return worst, False, f"{percent(float((actual == expected).mean()))} equal"
        worst, within = compare_floats(expected, actual, tolerance)
        return worst, within, f"worst {worst:.3g}"

    # --- Tiles ---

    def pixels_a_step(self, tile: Tile) -> int | None:
        """For arrays [batch, rows, columns, …] that are laid over a picture: pixels from one row to the next."""
        return None

    # --- Hosts in other languages ---

    def host(self, port: Port) -> dict[str, Any]:
        """What `model.json` says of a port besides its declaration: all that an exported host needs of the kind."""
        low, high = self.bounds(port)
        told = {"codec": self.codec, "field": self.field, "shown": self.shown, "since": self.since}
        told |= {"repeats": True} if self.repeats else {}
        told |= {"sample": self.host_sample(port)}
        return told | {k: v for k, v in (("minimum", low), ("maximum", high)) if v is not None}

    def host_sample(self, port: Port) -> str:
        """What stands for the port in an example of a host's command line; empty: nothing needs to be given."""
        return "" if port.default is not None else str(port.minimum or 1)

    # --- Making models: golden cases, calibration ---

    def dimensions(self, port: Port, height: int, width: int) -> dict[str, int]:
        """Lengths of the port's named dimensions in a case of that size of picture."""
        return {}

    def draw_case(self, port: Port, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        """An array for a golden case, in the port's range."""
        import numpy as np

        low, high = port.minimum, port.maximum
        if low is None or high is None:
            low, high = -np.inf if low is None else low, np.inf if high is None else high
            return rng.standard_normal(shape).astype(np.float32).clip(low, high)
        return rng.uniform(low, high, shape).astype(np.float32)

    def real_case(self, name: str, port: Port, inputs: RealInputs) -> Any:
        """Values out of real data; the default where the kind has none of its own, None where nothing fits."""
        return port.default


def shape_text(shape: Iterable[int | str]) -> str:
    """`[batch, 28, 28, 1]`."""
    return f"[{', '.join(map(str, shape))}]"


def percent(share: float) -> str:
    """`99.95 %`; never rounded up to 100 %."""
    return f"{int(share * 10_000) / 100:.2f} %"


def compare_floats(expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance) -> tuple[float, bool]:
    """|a - e| <= absolute + relative |e|; NaN and infinity only where the expected array has the same."""
    import numpy as np

    odd = ~np.isfinite(expected)
    if not np.array_equal(actual[odd], expected[odd], equal_nan=True) or not np.isfinite(actual[~odd]).all():
        return float("inf"), False
    e, a = expected[~odd].astype(np.float64), actual[~odd].astype(np.float64)
    difference = np.abs(a - e)
    within = (difference <= tolerance.absolute + tolerance.relative * np.abs(e)).all()
    return float(difference.max(initial=0.0)), bool(within)
