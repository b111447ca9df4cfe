"""Pictures to train and measure on: IDX files, an .npz, or a folder of pictures.

A data set is read whole, as uint8 [number, height, width, channels] and int64 labels (-1: no label).
"""

import gzip
import hashlib
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import InvalidFileError, NotFoundError, UsageError
from ..formats.manifest import Manifest
from ..hookspecs import ArrayFacts, DataFacts, Port
from ..media.files import read_input
from ..media.pictures import MAX_PIXELS, decode_picture, upright_size
from ..media.tensors import read_npy_header
from ..names import PORT_NAME
from ..ports.image import channels_of
from ..ports.kinds import kind_of
from ..ports.label import repeated
from ..system.files import sniff_file
from ..system.leftovers import left_behind
from ..text import safe_text, sniff
from . import folders
from .arrays import LONGEST_CLASS, MOST_CLASSES, Column, renumbered, taken

CALIBRATION_PICTURES = 128
"""The number of pictures on which the activations of a model are measured."""

ON_WHITE, FIRST_FRAME, TO_GREY, TO_RGB = (
    "put on white",
    "using its first frame",
    "converted to grey",
    "repeated in three channels",
)
"""What `decode_picture` reports about a picture that it changes, after the colon."""

MAX_HELD_OUT = 1_000  # pictures
FEWEST_TO_HOLD_OUT_FROM = 20  # pictures; of fewer, all are trained on

NPZ_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
"""What reading a damaged or encrypted .npz raises."""


@dataclass(frozen=True)
class Dataset:
    """Pictures of one part of a data set."""

    name: str
    split: str  # train, test, or all if the data set has no parts
    images: np.ndarray  # uint8 [number, height, width, channels]
    labels: np.ndarray  # int64 [number]
    classes: tuple[str, ...]
    said: str = ""
    """One line for people: how many pictures and which classes were read, and what was passed over."""
    changes: Mapping[str, int] = field(default_factory=dict)
    """In how many pictures what was changed to read them, e.g. `put on white`."""
    columns: Mapping[str, Column] = field(default_factory=dict)  # what there is besides, by name
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)  # those of them that a model needs; see `take`
    aligned: tuple[str, ...] = ()  # those of them that cover the pictures pixel by pixel
    original_size: tuple[int, int] | None = None  # height and width of the pictures before they were scaled

    @property
    def sha256(self) -> str:
        """SHA-256 of the pictures' bytes, followed by the labels' and those of the arrays, by name."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        for array in (self.labels, *(self.arrays[name] for name in sorted(self.arrays))):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @property
    def facts(self) -> DataFacts:
        """What the pictures are like."""
        number, height, width, channels = self.images.shape
        classes = self.classes if (self.labels >= 0).any() else ()
        arrays = {name: column.facts for name, column in self.columns.items()}
        return DataFacts(height=height, width=width, channels=channels, classes=classes, number=number, arrays=arrays)

    def part(self, indices: np.ndarray, split: str) -> "Dataset":
        """Only these pictures."""
        return replace(
            self,
            split=split,
            images=self.images[indices],
            labels=self.labels[indices],
            columns={name: column.part(indices) for name, column in self.columns.items()},
            arrays={name: array[indices] for name, array in self.arrays.items()},
        )

    def take(self, example: Mapping[str, Port]) -> "Dataset":
        """The data with the arrays of an example (`Tasks.example`), which are read and checked now.

        Raises:
            UsageError: an array is missing, or does not fit its port or the pictures.
        """
        size = self.images.shape[1:3]

        def resized(array: np.ndarray) -> np.ndarray:
            return _to_size(array, size, Counter()) if array.shape[1:3] == self.original_size else array

        aligned = tuple(name for name, port in example.items() if kind_of(port).aligned)
        return replace(self, arrays=taken(self.columns, example, self.images, resized, self.name), aligned=aligned)

    def __len__(self) -> int:
        return len(self.images)


def size_of(text: str) -> tuple[int, int]:
    """Height and width, pixels, of `48x40` (width x height) or `32` (a square)."""
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if not found or min(sides := (int(found[2] or found[1]), int(found[1]))) < 1:
        raise UsageError(
            f"the image size '{safe_text(text)}' must look like 48x40 (width x height), or 32 for a square"
        )
    if (pixels := sides[0] * sides[1]) > MAX_PIXELS:
        raise UsageError(f"the image size {safe_text(text)} has {pixels:,} pixels; it may have at most {MAX_PIXELS:,}")
    return sides


def hold_out(data: Dataset, number: int | None, seed: int) -> tuple[Dataset, Dataset | None]:
    """The pictures to train on, and those to measure on, drawn by the seed.

    Args:
        number: how many are held out; None: a tenth, but at most `MAX_HELD_OUT`, and none of very few.
    """
    if number is None:
        number = min(len(data) // 10, MAX_HELD_OUT) if len(data) >= FEWEST_TO_HOLD_OUT_FROM else 0
    if not number:
        return data, None
    if number >= len(data):
        raise UsageError(f"--hold-out is {number:,}, but there are only {len(data):,} pictures")
    order = np.random.default_rng(seed).permutation(len(data))
    kept, held = np.sort(order[number:]), np.sort(order[:number])
    return data.part(kept, f"{data.split} but {number:,} held out"), data.part(held, "held out")


def read(
    path: Path,
    *,
    split: str = "train",
    channels: int | None = None,
    image_size: tuple[int, int] | None = None,
    classes: tuple[str, ...] = (),
    default_classes: tuple[str, ...] = (),
    name: str = "",
    skip: int = 0,
    limit: int | None = None,
) -> Dataset:
    """Reads a data set from whatever is at `path`.

    - a folder with IDX files as MNIST names them (`train-images-idx3-ubyte[.gz]`, `t10k-…` for the test part);
    - an `.npz` with `images` [N, H, W] or [N, H, W, C] and, optionally, `labels` and `classes`; or with `train_images`,
      `test_images` and so on;
    - a folder of pictures, with one subfolder per class or per part of the data set (`folders.layout`). Pictures are
      read as by `zoo run`: upright, transparent parts on white, the first frame of an animation.

    docs/data.md has the details.

    Args:
        split: `train` or `test`.
        channels: 1 or 3; grey and colour are converted into each other. None: 1 if all pictures are grey, else 3.
        image_size: height and width; pictures of another size are cropped at the centre to this aspect ratio and
            scaled. None: as they are; then all must have one size.
        classes: names of the labels, from 0; default: those of the data, else the numbers. Data with their own names
            are renumbered in this order.
        default_classes: names for data without any, if they suffice.
        skip: skip this many pictures.
        limit: only this many of the remaining pictures.

    Raises:
        NotFoundError, InvalidFileError, UsageError: one line each.
    """
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"no data at {safe_text(path)}")
    changes: Counter[str] = Counter()
    if path.is_file():
        found = _read_npz(path, split)
    elif any(not left_behind(p.name) for p in path.glob("*-images-idx3-ubyte*")):
        found = _read_idx(path, split)
    else:
        found = _read_folder(path, split, channels, image_size, changes)
    images, labels = found.images, found.labels
    if twice := repeated(classes):
        raise UsageError(twice)
    if len(images) <= skip:
        raise InvalidFileError(f"{safe_text(path)} has no pictures" + (f" after the first {skip:,}" if skip else ""))
    part = slice(skip, None if limit is None else skip + limit)
    images, labels = images[part], labels[part].astype(np.int64)
    numbers = tuple(str(i) for i in range(int(found.labels.max()) + 1))
    named = default_classes if len(default_classes) >= len(numbers) else numbers
    names = found.classes or tuple(classes) or named
    if labels.max() >= len(names):
        raise UsageError(f"{safe_text(path)} has labels up to {labels.max()}, but there are {len(names)} class names")
    said = _said(found, len(images), names if labels.max() >= 0 else ())
    if classes and found.classes:
        labels, names = renumbered(safe_text(path), labels, found.classes, tuple(classes)), tuple(classes)
    name = name or (path.stem if path.is_file() else path.absolute().name)
    original = (images.shape[1], images.shape[2])
    images = _to_channels(_to_size(images, image_size, changes), channels, changes)
    columns = {column: values.part(part) for column, values in found.columns.items()}
    return Dataset(
        name, split if found.has_parts else "all", images, labels, names, said, changes, columns, original_size=original
    )


@dataclass(frozen=True)
class _Found:
    """What a file or folder contains."""

    source: str  # the file or folder, for people
    images: np.ndarray  # uint8 [number, height, width] or [number, height, width, channels]
    labels: np.ndarray  # integers [number]
    classes: tuple[str, ...] = ()
    passed_over: str = ""  # `; passed over: …`
    has_parts: bool = True  # the data set consists of parts, and this is one of them
    columns: Mapping[str, Column] = field(default_factory=dict)  # what there is besides, by name


def _said(found: _Found, number: int, names: tuple[str, ...]) -> str:
    """`animals: 8 pictures in 2 classes (cat, dog); passed over: 1 left by systems and tools (.DS_Store)`."""
    pictures = f"{number:,}" if number == len(found.images) else f"{number:,} of {len(found.images):,}"
    pictures += " picture" if len(found.images) == 1 else " pictures"
    what = f"{len(names):,} class" + ("" if len(names) == 1 else "es")
    classes = f"in {what} ({folders.first_of(names, 10)})" if names else "without labels"
    return f"{found.source}: {pictures} {classes}{found.passed_over}"


def _check(path: Path, images: tuple[tuple[int, ...], np.dtype], labels: tuple[tuple[int, ...], np.dtype]) -> None:
    """Checks shape and dtype of images and labels, before they are read."""
    (shape, dtype), (labels_shape, labels_dtype) = images, labels

    def refuse(reason: str) -> None:
        raise InvalidFileError(f"{safe_text(path)}: {reason}")

    if dtype != np.uint8 or len(shape) not in (3, 4):
        refuse(
            f"images are {dtype} of {len(shape)} dimensions;"
            " they must be uint8 [number, height, width] or [number, height, width, channels]"
        )
    if labels_dtype.kind not in "iu" or len(labels_shape) != 1:
        refuse(f"labels are {labels_dtype} of {len(labels_shape)} dimensions; they must be integers [number]")
    if shape[0] != labels_shape[0]:
        refuse(f"{shape[0]} pictures and {labels_shape[0]} labels; there must be one label per picture")


def _check_labels(path: Path, labels: np.ndarray) -> None:
    """Checks the values of labels before there is a class for each."""
    if len(labels) and labels.min() < -1:
        raise InvalidFileError(
            f"{safe_text(path)}: a label is {labels.min():,}; labels count from 0, and -1 means no label"
        )
    if len(labels) and labels.max() >= MOST_CLASSES:
        raise InvalidFileError(
            f"{safe_text(path)}: a label is {labels.max():,}; labels count from 0, up to {MOST_CLASSES - 1:,}"
        )


def _read_idx(folder: Path, split: str) -> _Found:
    part = {"train": "train", "test": "t10k"}[split]
    images, labels = (_idx_file(folder, f"{part}-{what}") for what in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    _check(folder, (images.shape, images.dtype), (labels.shape, labels.dtype))
    return _Found(f"{safe_text(folder)}, {part}", images, labels)


def _idx_file(folder: Path, name: str) -> np.ndarray:
    """An IDX file: 0, 0, 8 (for uint8), the number of dimensions, each size as big-endian int32, the data."""
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise NotFoundError(f"{safe_text(folder)} has no {name} or {name}.gz")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:3] != b"\0\0\x08":
            raise ValueError(f"it does not start with the bytes 0, 0, 8{sniff(data)}")
        shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as e:
        raise InvalidFileError(f"{safe_text(path)} is not an IDX file of bytes: {safe_text(e)}") from None


def _read_npz(path: Path, split: str) -> _Found:
    if not zipfile.is_zipfile(path):
        raise InvalidFileError(
            f"{safe_text(path)} is not an .npz; data must be an .npz, or a folder of pictures or IDX files"
            f"{sniff_file(path)}"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            prefix = f"{split}_" if f"{split}_images" in arrays else ""
            if f"{prefix}images" not in arrays:
                parts = any(f"{part}_images" in arrays for part in ("train", "test"))
                kind = NotFoundError if parts else InvalidFileError
                raise kind(f"{safe_text(path)} has no array 'images' or '{split}_images'")
            stated = _npy_header(arrays, f"{prefix}images")
            if f"{prefix}labels" in arrays:
                _check(path, stated, _npy_header(arrays, f"{prefix}labels"))
                labels = arrays[f"{prefix}labels"]
                _check_labels(path, labels)
            else:
                _check(path, stated, (stated[0][:1] or (0,), np.dtype(np.int64)))
                labels = None
            classes = _npz_classes(path, arrays, "classes") if "classes" in arrays else ()
            images = arrays[f"{prefix}images"]
            if labels is None:  # only now is it sure that there are so many pictures
                labels = np.full(len(images), -1)
            columns = _npz_columns(path, arrays, prefix)
    except NPZ_ERRORS as e:
        raise InvalidFileError(f"{safe_text(path)} is not a readable .npz: {safe_text(e)}") from None
    except MemoryError:
        raise InvalidFileError(f"{safe_text(path)} contains more than fits into the memory") from None
    return _Found(
        f"{safe_text(path)}{', ' if prefix else ''}{prefix.rstrip('_')}",
        images,
        labels,
        classes,
        has_parts=bool(prefix),
        columns=columns,
    )


def _npz_columns(path: Path, arrays: "np.lib.npyio.NpzFile", prefix: str) -> dict[str, Column]:
    """Every other array with one entry per picture; `NAME_classes` are the names of its values."""
    number, found = _npy_header(arrays, f"{prefix}images")[0][0], {}
    for key in arrays.files:
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name in ("images", "labels", "classes") or name.endswith("_classes"):
            continue
        try:
            shape, dtype = _npy_header(arrays, key)
        except (KeyError, ValueError):  # not an array, or of Python's objects: nothing that a model can need
            continue
        if PORT_NAME.fullmatch(name) and shape[:1] == (number,):
            named = next((k for k in (f"{key}_classes", f"{name}_classes") if k in arrays), None)
            classes = _npz_classes(path, arrays, named) if named else ()
            facts = ArrayFacts(dtype=str(dtype), shape=shape[1:], classes=classes)
            found[name] = Column(facts, partial(_npz_array, path, key), np.arange(number))
    return found


def _npz_array(path: Path, key: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays[key]
    except (*NPZ_ERRORS, KeyError, MemoryError) as e:
        raise InvalidFileError(f"{safe_text(path)}: '{safe_text(key)}' cannot be read: {safe_text(e)}") from None


def _npy_header(arrays: "np.lib.npyio.NpzFile", name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array, without reading it."""
    assert arrays.zip is not None  # it is open
    with arrays.zip.open(f"{name}.npy") as file:
        shape, _, dtype = read_npy_header(file)  # type: ignore[arg-type]  # it has all that is needed
    if dtype.hasobject:
        raise ValueError(f"{name} contains objects: Object arrays cannot be loaded")
    return shape, dtype


def _npz_classes(path: Path, arrays: "np.lib.npyio.NpzFile", key: str) -> tuple[str, ...]:
    shape, dtype = _npy_header(arrays, key)
    if dtype.kind not in "USiu" or len(shape) != 1 or shape[0] > MOST_CLASSES or dtype.itemsize > 4 * LONGEST_CLASS:
        raise InvalidFileError(
            f"{safe_text(path)}: {safe_text(key)} are {dtype} [{', '.join(map(str, shape))}]; they must be at most"
            f" {MOST_CLASSES:,} names of at most {LONGEST_CLASS} characters"
        )
    names = tuple(c.decode("utf-8", "replace") if isinstance(c, bytes) else str(c) for c in arrays[key])
    if twice := repeated(names):
        raise InvalidFileError(f"{safe_text(path)}: {safe_text(key)}: {twice}")
    return names


def _read_folder(
    folder: Path, split: str, channels: int | None, image_size: tuple[int, int] | None, changes: Counter[str]
) -> _Found:
    layout = folders.layout(folder, split)
    paths = [path for path, _ in layout.pictures]
    if not image_size:
        _check_sizes(layout.folder, paths)
    images = np.stack([_read_picture(path, channels, image_size, changes) for path in paths])
    labels = np.array([label for _, label in layout.pictures], np.int64)
    where = safe_text(layout.folder)
    return _Found(
        where, images, labels, layout.classes, layout.passed_over, has_parts=layout.part, columns=layout.columns
    )


def _check_sizes(folder: Path, paths: Sequence[Path]) -> None:
    """Refuses pictures of different sizes; reads only their headers."""
    sizes = Counter(upright_size(read_input(str(path))) for path in paths)
    if len(sizes) > 1:
        smallest, largest = (f"{w}x{h}" for w, h in (min(sizes), max(sizes)))
        common = "{}x{}".format(*sizes.most_common(1)[0][0])
        raise UsageError(
            f"the pictures in {safe_text(folder)} have {len(sizes)} sizes, {smallest} to {largest}, most often"
            f" {common}: give --image-size {common} to crop and scale all of them"
        )


def _read_picture(
    path: Path, channels: int | None, image_size: tuple[int, int] | None, changes: Counter[str]
) -> np.ndarray:
    """uint8 [height, width, channels], as `zoo run` reads pictures; what is changed is counted."""
    port = Port(kind="image", dtype="uint8", shape=("batch", *(image_size or ("height", "width")), channels or 3))

    def count(line: str) -> None:
        changes[line.rpartition(": ")[2]] += 1

    return decode_picture(read_input(str(path)), "image", port, count)


def _to_size(images: np.ndarray, image_size: tuple[int, int] | None, changes: Counter[str]) -> np.ndarray:
    """Cropped at the centre and scaled, as `decode_picture` does it with files: uint8 [N, H, W] or [N, H, W, C]."""
    if not image_size or images.shape[1:3] == image_size:
        return images
    height, width = image_size
    changes[f"cropped at the centre and scaled to {width}x{height}"] += len(images)
    planes = images[..., None] if images.ndim == 3 else images
    scaled = [
        [ImageOps.fit(Image.fromarray(plane), (width, height), Image.Resampling.LANCZOS) for plane in picture]
        for picture in planes.transpose(0, 3, 1, 2)
    ]
    return np.stack([np.stack([np.asarray(plane) for plane in picture], axis=-1) for picture in scaled])


def _to_channels(images: np.ndarray, channels: int | None, changes: Counter[str]) -> np.ndarray:
    """uint8 [N, H, W] or [N, H, W, C] to [N, H, W, channels]."""
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[-1] not in (1, 3):
        raise InvalidFileError(f"pictures have {images.shape[-1]} channels; they must have 1 or 3")
    grey = images.shape[-1] == 1 or (channels != 3 and bool((images == images[..., :1]).all()))
    if (channels or (1 if grey else 3)) == images.shape[-1]:
        return images
    if grey and channels != 3:  # three equal channels
        changes.pop(TO_RGB, None)
        return np.ascontiguousarray(images[..., :1])
    changes[TO_RGB if channels == 3 else TO_GREY] += len(images)
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    # ITU-R 601-2 luma, as Pillow converts
    return np.round(images @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None]


class Sampler:
    """Which pictures step `n` trains on: each once per epoch, in an order that depends on seed and epoch.

    Batches are full, so an epoch skips the last `number % batch_size` pictures of its order. The order is the same for
    a resumed run and for any number of processes, which divide each batch among them.
    """

    def __init__(self, number: int, batch_size: int, seed: int):
        if not 1 <= batch_size <= number:
            raise UsageError(f"batch size {batch_size}; it must be between 1 and the number of pictures, {number:,}")
        self.number, self.batch_size, self.seed = number, batch_size, seed
        self.steps_per_epoch = number // batch_size
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def indices(self, step: int) -> np.ndarray:
        """int64 [batch_size] for a step, from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.number)
        return self._order[place * self.batch_size : (place + 1) * self.batch_size]


def calibration_pictures(manifest: Manifest, data: Path) -> np.ndarray:
    """Pictures of the training part, which are not used for metrics: uint8 [number, height, width, channels].

    Args:
        manifest: of the model, which takes or gives pictures.
    """
    ports = (p for t in manifest.tasks.values() for p in (*t.inputs.values(), *t.outputs.values()))
    channels = channels_of(ports)
    if channels is None:
        raise UsageError(f"{manifest.name} neither takes nor gives pictures")
    return read(data, split="train", channels=channels, limit=CALIBRATION_PICTURES).images
