"""What a kind of port is: everything that zoo knows about images, labels, seeds, … as inputs and outputs of tasks.

A kind is one file next to this one and one line in `kinds.py`. It subclasses `Kind`, which is a plain array of numbers,
and overrides what differs. No other part of zoo asks which kind a port has; it calls these methods. An exported host is
not part of zoo: it implements a closed list of codecs, and gets the rest from the kind as data (`Kind.host`).

numpy is imported inside the methods: `zoo list` reads kinds' names without it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InvalidFileError, UsageError
from ..hookspecs import Port, Task, Tile, Tolerance
from ..media.files import InputFile, Note
from ..media.tensors import encode_npy, encode_safetensors
from ..text import safe_text
from .given import as_array

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

    from ..media.sheet import View

BATCH = "batch"
"""The name of the first dimension of ports with one entry per element of the batch."""

MAX_BATCH = 10_000
"""The largest batch of one call: a larger one, requested by mistake, would fill the memory."""

Number = int | float

MAX_LENGTH = 2**31 - 1
MAX_VALUES = 40_000_000  # of one of a batch, if a length is chosen by hand; as many as a picture has pixels
"""The largest fixed dimension of a port."""

OWN_FIELDS = (
    "minimum_size", "maximum_pixels", "classes", "noise", "examples", "sample_rate", "maximum_samples", "frame_rate",
    "maximum_frames",
)  # fmt: skip
"""What only ports of some kinds may state: `Kind.fields`."""

RANGES: dict[str, tuple[Number, Number]] = {
    "uint8": (0, 255),
    "int64": (-(2**63), 2**63 - 1),
    "float32": (-3.4028234663852886e38, 3.4028234663852886e38),
}
"""Smallest and largest number of each dtype."""


@dataclass(frozen=True)
class Option:
    """The option of `zoo run` for a port."""

    name: str  # the key of its value in `zoo.run.call.gather`; ports may share an option
    help: str
    type: type = str  # the type of a command-line argument
    metavar: str | None = None
    multiple: bool = False
    file: bool = False  # its values are paths, or `-` for stdin
    endings: tuple[str, ...] = ()  # of the files that the Tab key offers for it
    folder: tuple[str, ...] = ()  # of the files that a folder stands for
    frames: tuple[str, ...] = ()  # of the files in a folder that is one value itself
    positional: bool = False  # takes files given without an option
    shared: bool = False  # fills several ports; ports with their own option may be given by that instead


@dataclass(frozen=True)
class Source:
    """The context in which the value of an option is read."""

    name: str  # of the port
    port: Port
    task: Task
    model: str  # reference of the model, for messages
    digest: str  # of the model
    given: Collection[str]  # all options that were given
    note: Note  # called with one line for each change to a file
    whole: bool = False  # a picture that must be scaled is not cropped: it gets edges


@dataclass(frozen=True)
class Read:
    """The result of reading an option."""

    values: dict[str, Any]  # by port
    files: list[InputFile] = field(default_factory=list)  # the files that the values came from


@dataclass(frozen=True)
class RealInputs:
    """Real data from which a port's values can be taken, to measure the activations of a graph."""

    pictures: np.ndarray  # uint8 [batch, height, width, channels]
    first: int  # how many pictures came before these
    encoded: Mapping[str, np.ndarray]  # the outputs of the model's `encode` for them, by port; empty without that task


class Form:
    """How outputs become files. `Values` is the form of plain arrays; other forms are defined with their kind.

    Attributes:
        name: for messages and file names: `generate gives pictures`.
        suffixes: endings of its files; a name that zoo chooses gets the first.
        shared: one file contains all outputs of this form; else each output has its own file, or one per element of the
            batch (`{i}` in the name). Only such files contain the recipe.
        printed: small outputs are printed if no file is requested.
        viewable: its files are pictures, or videos, which can be enlarged and put on a sheet.
        moves: those are videos.
        loses: what its files have lost, as a line for who writes one; empty: nothing.
        media_type: of a file of its own, which a request can ask for; empty: none can.
    """

    name: str
    suffixes: tuple[str, ...]
    shared: bool
    printed: bool = False
    viewable: bool = False
    media_type: str = ""
    moves: bool = False
    loses: str = ""

    def check_name(self, task: str, ports: Sequence[str], suffix: str) -> None:
        """Raises UsageError for a file ending that does not fit these outputs."""

    def encode(self, arrays: Mapping[str, np.ndarray], made_by: Mapping[str, str], suffix: str) -> bytes:
        """The bytes of a file of a shared form.

        Args:
            made_by: digest and reference of the model, and the task.
        """
        raise NotImplementedError(f"{self.name} have one file each")

    def encode_batch(self, batch: np.ndarray, recipe: str) -> bytes:
        """The bytes of a file of one output: the whole batch, with the recipe inside."""
        raise NotImplementedError(f"{self.name} share a file")

    def named(self, suffix: str) -> Form:
        """The form of a file with this ending, if it depends on that; else this one."""
        return self

    def layout(self, batch: np.ndarray) -> Any:
        """What `decode_batch` must know about the batch that is not in the file; kept in the recipe."""

    def viewed(self, view: View) -> Form:
        """The form with another look: enlarged, or as a sheet with captions; this one, if it is not `viewable`."""
        return self

    def count(self, layout: Any, batch: np.ndarray) -> int:
        """The number of elements in the whole batch, of which a file contains `batch`: all of it, if nothing else says
        otherwise.

        Args:
            layout: what `layout` returned for the whole batch, from the recipe's JSON.
        """
        return len(batch)

    def reads(self, file: InputFile) -> bool:
        """Whether `encode_batch` may have written a file, judged by its first bytes."""
        return False

    def recipe_of(self, file: InputFile) -> str | None:
        """The recipe in a file; None if it has none."""
        return None

    def kept(self, batch: np.ndarray) -> np.ndarray:
        """The batch as `decode_batch` gives it back, if a file holds less: 16 bits of a float."""
        return batch

    def decode_batch(self, file: InputFile, layout: Any, index: int | None) -> np.ndarray:
        """The batch in a file that `encode_batch` wrote.

        Args:
            layout: what `layout` returned for the whole batch, from the recipe's JSON.
            index: the file contains this element of the batch; None: all.

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
            raise UsageError(f"{task} gives {', '.join(ports)}; .npy can only contain one array: use .safetensors")

    def encode(self, arrays: Mapping[str, np.ndarray], made_by: Mapping[str, str], suffix: str) -> bytes:
        if suffix == ".npy":
            return encode_npy(next(iter(arrays.values())))
        return encode_safetensors(arrays, made_by)


VALUES = Values()


class Kind:
    """One kind of port. This base class is an array of numbers, given as a number and written as values.

    Attributes:
        name: its name in manifests.
        dtype: of its arrays.
        shape: its shape rule, for people; `problem` checks a port against `ranks` and `last`.
        meaning: its line in docs/bundle.md.
        since: the first version of zoo that knows it.
        ranks: the number of dimensions that its ports may have; empty: any.
        fields: what its ports may state that most kinds do not have: sizes, classes, noise.
        last: the lengths that its last dimension may have; empty: any.
        repeats: a single value may be used for the whole batch.
        drawn: hosts draw a value if none is given, and count up from it for a batch (`-n`).
        fed: golden cases take its values from another task that gives them, if there is one.
        decides: its values are choices on which other outputs depend (`follows` of another kind).
        aligned: its arrays are pictures that cover another one pixel by pixel: what crops, scales or moves the one does
            the same to them.
        number: the type of an option's text, for kinds whose default can be set to another number.
        asks: what a command line must give for it.
        form: how outputs of the kind become files; `form_in` gives the form for a task.
        of_shapes: as an output without a batch axis, its values follow from the shapes of the inputs.
        codec: which of the closed list of host codecs its arrays use.
        field: how a page asks for it; an older page treats an unknown one as `data`, a file.
        shown: how a page shows it.
        sample: its value in an example on a card; empty: it can be left out.
    """

    name: str
    dtype: str
    shape: str
    meaning: str
    since = "0.1"
    ranks: tuple[int, ...] = ()
    fields: tuple[str, ...] = ()
    last: tuple[int, ...] = ()

    repeats = False
    drawn = False
    fed = True
    decides = False
    follows = False
    aligned = False
    of_shapes = False
    number: type[int] | type[float] | None = None
    asks = "FILE"
    form: Form = VALUES
    codec: Literal["pixels", "integers", "floats", "bytes"]
    field: Literal["picture", "brush", "choice", "seed", "number", "text", "sound", "video", "data"] = "data"
    shown: Literal["pictures", "codes", "maps", "names", "sound", "video", "numbers"] = "numbers"
    sample = "0"

    # --- A port of this kind, as a manifest declares it ---

    def problem(self, port: Port) -> str:
        """What is wrong with a declared port; empty if nothing is."""
        if port.dtype != self.dtype:
            return f"ports of the kind {self.name} are {self.dtype}, not {port.dtype}"
        if self.ranks and len(port.shape) not in self.ranks:
            return f"ports of the kind {self.name} have the shape {self.shape}, not {shape_text(port.shape)}"
        if self.last and port.shape[-1] not in self.last:
            lengths = " or ".join(map(str, self.last))
            return f"the last dimension of the kind {self.name} is {lengths}, not {port.shape[-1]}"
        if self.shape.startswith(f"[{BATCH}") and port.shape and port.shape[0] != BATCH:
            return f"the first dimension of the kind {self.name} is {BATCH}, not {port.shape[0]}"
        if long := next((d for d in port.shape if isinstance(d, int) and d > MAX_LENGTH), None):
            return f"a dimension is {long:,}; at most {MAX_LENGTH:,} are allowed"
        for name in OWN_FIELDS:
            if getattr(port, name) and name not in self.fields:
                return f"ports of the kind {self.name} have no {name}"
        return self._wrong_number(port)

    def _wrong_number(self, port: Port) -> str:
        """What is wrong with the bounds and the default; empty if nothing is."""
        least, most = RANGES[port.dtype]
        low, high = self.bounds(port)
        for name, value in (("minimum", low), ("maximum", high), ("default", port.default)):
            if value is None:
                continue
            if not least <= value <= most:  # also for NaN
                return f"{name} is {value}; {port.dtype} is {least} .. {most}"
            if isinstance(least, int) and value != int(value):
                return f"{name} is {value}; it must be a whole number"
        if low is not None and high is not None and low > high:
            return f"minimum is {low}, which is above maximum, {high}"
        if port.default is None:
            return ""
        if port.shape and not self.repeats:
            return f"ports of the kind {self.name} have no default"
        if (low is not None and port.default < low) or (high is not None and port.default > high):
            return f"default is {port.default}; it must be {self.range_text(port)}"
        return ""

    def bounds(self, port: Port) -> tuple[Number | None, Number | None]:
        """Smallest and largest value, inclusive; None if there is no bound."""
        return port.minimum, port.maximum

    def limits(self, port: Port) -> Iterator[str]:
        """The values that a port takes, in short phrases: `0 .. 9`, `default 4`."""
        if values := self.range_text(port):
            yield values
        if port.default is not None:
            yield f"default {self.default(port)!r}"

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

    def form_in(self, port: Port, ports: Mapping[str, Port]) -> Form:
        """How an output of the kind becomes a file, given all outputs of its task."""
        return self.form

    def default(self, port: Port) -> Any:
        """The value of Python that stands for the port's default; None if it has none."""
        return port.default if port.default is None or port.dtype == "float32" else int(port.default)

    # --- Values of Python ---

    def annotation(self, port: Port) -> Any:
        """What a signature says that the port takes."""
        if self.repeats and self.number is not None:
            number = self.number
            return number | Sequence[number] if port.shape else number
        import numpy as np

        return np.ndarray

    def images(self, array: np.ndarray) -> list[PIL.Image.Image]:
        """An output as pictures of Pillow; empty if it is none."""
        return []

    def png(self, array: np.ndarray) -> bytes | None:
        """An output as one PNG to look at; None if it is none."""
        return None

    def from_value(self, name: str, port: Port, value: Any) -> np.ndarray:
        """An array of the port's dtype, if the conversion loses nothing; a single number stays one.

        Raises:
            UsageError: another type, or a number that does not fit the dtype.
        """
        import numpy as np

        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise UsageError(f"{name} is {value}; it must be {self.range_text(port) or 'an int64'}")
        array = as_array(name, value)
        if array.dtype == port.dtype:
            return array
        if array.dtype.kind not in ("iu" if port.dtype == "int64" else "iuf"):
            given = type(value).__name__ if array.dtype == object or array.ndim == 0 else str(array.dtype)
            raise UsageError(f"{name} is {safe_text(given)}; it must be {self.describe(port)}")
        if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
            raise UsageError(f"{name} is {array.max()}, too large for an int64")
        return array.astype(port.dtype)

    def check_array(self, name: str, port: Port, array: np.ndarray) -> None:
        """Raises UsageError for an array of the right dtype and shape with values that the port does not allow."""
        import numpy as np

        if port.dtype == "float32" and not np.isfinite(array).all():
            raise UsageError(f"{name} contains NaN or infinity")
        low, high = self.bounds(port)
        held = np.dtype(port.dtype).type  # 0.1 in the manifest is not quite the closest float32
        below = low is not None and array.min() < held(low)
        above = high is not None and array.max() > held(high)
        if below or above:
            value = (array.min() if below else array.max()).item()
            shown = f"{value:.6g}" if isinstance(value, float) else str(value)
            raise UsageError(f"{name} is {shown}; it must be {self.range_text(port)}")

    def check_lengths(self, name: str, port: Port, lengths: Sequence[int]) -> None:
        """Raises UsageError for a shape, without the batch, that is too large or too small, before there is an array
        of it."""
        if math.prod(lengths) > MAX_VALUES:
            shown = " x ".join(f"{length:,}" for length in lengths)
            raise UsageError(f"{name} has {shown} values; it may have at most {MAX_VALUES:,}")

    def to_json(self, port: Port, array: np.ndarray) -> Any:
        """An output as JSON, for people."""
        return array.tolist()

    # --- Requests to a server ---

    def from_request(self, name: str, port: Port, value: Any) -> Any:
        """What `from_value` takes, from a value of a request: JSON, the bytes of a file, or a list of such. A text is
        never taken for a path: whoever sends it must not read files of the server.

        Raises:
            UsageError, InvalidFileError: one line.
        """
        if isinstance(value, bytes):
            raise UsageError(f"{name} is a file; it must be {self.describe(port)}")
        return value

    def to_answer(self, port: Port, array: np.ndarray) -> Any:
        """An output as the JSON of an answer: as `to_json`, but files in base64, one for each element of the batch."""
        return self.to_json(port, array)

    def schema(self, port: Port) -> dict[str, Any]:
        """What JSON Schema says about the port's value in a request; `from_request` checks more than that."""
        if self.number is None and not self.drawn:
            return {"type": "array"}
        low, high = self.bounds(port)
        bounds = {key: value for key, value in (("minimum", low), ("maximum", high)) if value is not None}
        one = {"type": "number" if self.number is float else "integer", **bounds}  # what is drawn, seeds, are integers
        return {"oneOf": [one, {"type": "array", "items": one}]} if port.shape else one

    # --- A command line ---

    def option(self, name: str, port: Port, task: Task) -> Option | None:
        """The option of `zoo run` for the port; None if it cannot be given on a command line."""
        return Option(name, self.help(name, port, self.range_text(port)))

    def help(self, name: str, port: Port, limits: str) -> str:
        """The help of an option: the model's summary of the port, then its limits and default."""
        said = safe_text(port.summary)
        said = said[:1].upper() + said[1:]
        default = "" if port.default is None else f"default: {self.default(port)!r}"
        notes = "; ".join(part for part in (limits, default) if part)
        return f"{said or name.capitalize()}" + (f"  [{notes}]" if notes else "")

    def read(self, given: Any, source: Source) -> Read:
        """The port's values from its option. Files are read here, and only here.

        Raises:
            NotFoundError, InvalidFileError, UsageError: one line.
        """
        return Read({source.name: given})

    def look(self, file: InputFile, port: Port) -> tuple[int, ...]:
        """The lengths that all files of one call share, from the header of one; empty if there are none.

        Raises:
            InvalidFileError: the port does not allow the file; nothing is decoded to find that out.
        """
        return ()

    def read_once(self, name: str, port: Port, given: Any) -> Any:
        """The value of an option, with what is in its files if these have a value for each picture: of such a list,
        each batch takes its part."""
        return given

    def several(self, name: str, port: Port, given: Any, *, always: bool = False) -> list[Any] | None:
        """The values of an option that was given a list, for a product; None if it was given one value.

        Args:
            always: several single values are a list as well.
        """
        return list(given) if isinstance(given, (list, range)) else None

    def captions(self, name: str, port: Port, values: list[Any]) -> list[str]:
        """A line for each picture of a sheet that says which value it was made from; empty if they need not be told."""
        if len(set(values)) == 1 and not self.drawn:
            return []
        return [f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for value in values]

    def recorded(self, port: Port, array: np.ndarray, *, whole: bool = False) -> Any:
        """A value as a recipe's JSON, which `read` takes: a single number if all pictures have the same. One value of a
        kind that is drawn counts up, so those of a list stay a list.

        Args:
            whole: always one value for each picture, since nothing else in the recipe says how many there are.
        """
        values = array.tolist()
        alike = port.shape == (BATCH,) and len(set(values)) == 1
        return values[0] if alike and not whole and not (self.drawn and len(values) > 1) else values

    def resized(self, port: Port, height: int, width: int) -> Port:
        """The port with its pictures' size fixed, if it takes pictures."""
        return port

    def check_together(self, name: str, files: Mapping[str, list[InputFile]], task: Task) -> None:
        """Raises InvalidFileError for files that do not match those of the other inputs."""

    def missing(self, name: str, port: Port, task: Task) -> tuple[str, str]:
        """The option to name if a value is missing, and what it takes."""
        return name, self.asks

    def draw(self, name: str, given: Any, batch: int, note: Note) -> tuple[np.ndarray, int | None]:
        """Values for a whole batch, from the given or a random first one, and that first one; for a `drawn` kind.

        A list of values is taken as it is; then there is no first one.
        """
        raise NotImplementedError(f"a {self.name} is not drawn")

    # --- Comparing ---

    def compare(
        self, port: Port, expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance
    ) -> tuple[float, bool, str]:
        """The largest difference, whether it is within the tolerance, and a description of the difference.

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
        """For arrays [batch, rows, columns, …] that cover a picture: pixels from one row to the next."""
        return None

    # --- Hosts in other languages ---

    def host(self, port: Port) -> dict[str, Any]:
        """What `model.json` says about a port in addition to its declaration: all that an exported host must know."""
        low, high = self.bounds(port)
        told = {"codec": self.codec, "field": self.field, "shown": self.shown, "since": self.since}
        told |= {"repeats": True} if self.repeats else {}
        told |= {"sample": self.host_sample(port)}
        return told | {k: v for k, v in (("minimum", low), ("maximum", high)) if v is not None}

    def host_sample(self, port: Port) -> str:
        """The port's value in an example of a host's command line; empty: it can be left out."""
        return "" if port.default is not None else str(port.minimum or 1)

    # --- Making models: golden cases, calibration ---

    def dimensions(self, port: Port, height: int, width: int) -> dict[str, int]:
        """Lengths of the port's named dimensions in a case with pictures of that size."""
        return {}

    def draw_case(self, port: Port, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        """An array for a golden case, in the port's range."""
        import numpy as np

        low, high = port.minimum, port.maximum
        if low is None or high is None:
            values = np.asarray(rng.standard_normal(shape), np.float32)  # of the shape [], clip gives no array
            return np.asarray(values.clip(-np.inf if low is None else low, np.inf if high is None else high))
        return rng.uniform(low, high, shape).astype(np.float32)

    def real_case(self, name: str, port: Port, inputs: RealInputs) -> Any:
        """Values from real data; the default if the kind has none of its own, None if nothing fits."""
        return port.default


def shape_text(shape: Iterable[int | str]) -> str:
    """`[batch, 28, 28, 1]`."""
    return f"[{', '.join(map(str, shape))}]"


def percent(share: float) -> str:
    """`99.95 %`; never rounded up to 100 %."""
    return f"{int(share * 10_000) / 100:.2f} %"


def counted(layout: Any, what: str) -> int:
    """The number of elements that a recipe gives as the layout of its file."""
    if type(layout) is not int or not 1 <= layout <= MAX_BATCH:
        raise InvalidFileError(f"the recipe does not say how many {what} there were: another program changed it")
    return layout


def compare_floats(expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance) -> tuple[float, bool]:
    """|a - e| <= absolute + relative |e|; NaN and infinity are only allowed where the expected array has the same."""
    import numpy as np

    odd = ~np.isfinite(expected)
    if not np.array_equal(actual[odd], expected[odd], equal_nan=True) or not np.isfinite(actual[~odd]).all():
        return float("inf"), False
    e, a = expected[~odd].astype(np.float64), actual[~odd].astype(np.float64)
    difference = np.abs(a - e)
    within = (difference <= tolerance.absolute + tolerance.relative * np.abs(e)).all()
    return float(difference.max(initial=0.0)), bool(within)
