"""Data sets: IDX, npz, folders of pictures; what is refused, and in which words; the sampler."""

import gzip
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zoo.build import data
from zoo.build.data import Dataset, Sampler
from zoo.errors import InvalidFileError, NotFoundError, UsageError, ZooError
from zoo.hookspecs import DataFacts

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (7, 5, 6), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 2])


def read(path, **options) -> Dataset:
    return data.read(path, **{"channels": 1} | options)


def refused(path, kind=InvalidFileError, **options) -> str:
    with pytest.raises(ZooError) as error:
        read(path, **options)
    assert type(error.value) is kind and "\n" not in str(error.value)
    return str(error.value)


# --- IDX --------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return (
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}i", *array.shape) + array.astype(np.uint8).tobytes()
    )


def write_idx(folder, *, part="train", images=None, labels=None, packed=False):
    contents = {
        f"{part}-images-idx3-ubyte": idx(IMAGES) if images is None else images,
        f"{part}-labels-idx1-ubyte": idx(LABELS) if labels is None else labels,
    }
    for name, content in contents.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("part, split", [("train", "train"), ("t10k", "test")])
def test_idx_files_are_read_packed_or_not(tmp_path, packed, part, split):
    found = read(write_idx(tmp_path, part=part, packed=packed), split=split)
    assert np.array_equal(found.images, IMAGES[..., None]) and np.array_equal(found.labels, LABELS)
    assert found.classes == ("0", "1", "2") and found.name == tmp_path.name and found.labels.dtype == np.int64


@pytest.mark.parametrize(
    "images, words",
    [
        (b"\x89PNG" + idx(IMAGES)[4:], "it does not start with the bytes 0, 0, 8"),
        (bytes((0, 0, 9)) + idx(IMAGES)[3:], "it does not start with the bytes 0, 0, 8"),  # signed bytes
        (idx(IMAGES)[:-1], "is not an IDX file"),
        (idx(IMAGES)[:9], "is not an IDX file"),
        (b"", "is not an IDX file"),
        (b"\0\0\x08", "is not an IDX file"),
        (idx(IMAGES)[:4] + struct.pack(">3i", -1, 5, 6) + IMAGES.tobytes(), "is not an IDX file"),
        (idx(IMAGES) + b"more", "is not an IDX file"),
        (idx(LABELS), "images are uint8 of 1 dimensions"),
    ],
)
def test_idx_files_that_are_none_are_refused(tmp_path, images, words):
    assert words in refused(write_idx(tmp_path, images=images))


def test_a_truncated_or_damaged_gz_is_refused(tmp_path):
    write_idx(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert "is not an IDX file" in refused(tmp_path)
    path.write_bytes(whole[:12] + b"\xff" * 40 + whole[52:])
    assert "is not an IDX file" in refused(tmp_path)


def test_a_missing_part_is_named(tmp_path):
    write_idx(tmp_path)
    assert "has no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz" in refused(
        tmp_path, NotFoundError, split="test"
    )
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    assert "has no train-labels-idx1-ubyte" in refused(tmp_path, NotFoundError)


def test_as_many_labels_as_pictures(tmp_path):
    assert "7 pictures and 6 labels" in refused(write_idx(tmp_path, labels=idx(LABELS[:6])))


# --- npz --------------------------------------------------------------------------------------------------------------


def write_npz(tmp_path, **arrays):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return path


def test_an_npz_is_read_with_and_without_labels_classes_and_parts(tmp_path):
    found = read(write_npz(tmp_path, images=IMAGES, labels=LABELS, classes=np.array(["a", "b", "c"])))
    assert np.array_equal(found.labels, LABELS) and found.classes == ("a", "b", "c") and found.name == "set"
    found = read(write_npz(tmp_path, images=IMAGES))
    assert set(found.labels) == {-1} and found.classes == ()
    path = write_npz(tmp_path, train_images=IMAGES, train_labels=LABELS, test_images=IMAGES[:2], test_labels=LABELS[:2])
    assert len(read(path)) == 7 and len(read(path, split="test")) == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_labels_of_any_whole_number_type(tmp_path, dtype):
    assert read(write_npz(tmp_path, images=IMAGES, labels=LABELS.astype(dtype))).labels.dtype == np.int64


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"images": IMAGES.astype(np.float32)}, "images are float32 of 3 dimensions; they must be uint8"),
        ({"images": IMAGES[0]}, "images are uint8 of 2 dimensions"),
        ({"images": np.uint8(3)}, "images are uint8 of 0 dimensions"),
        ({"images": IMAGES, "labels": LABELS.astype(float)}, "labels are float64 of 1 dimensions"),
        ({"images": IMAGES, "labels": LABELS[:, None]}, "labels are int64 of 2 dimensions"),
        ({"images": IMAGES, "labels": LABELS - 5}, "a label is -5; labels count from 0, and -1 means no label"),
        ({"images": IMAGES, "labels": LABELS * np.nan}, "labels are float64 of 1 dimensions; they must be integers"),
        ({"images": IMAGES, "labels": LABELS > 0}, "labels are bool of 1 dimensions; they must be integers"),
        ({"images": IMAGES, "labels": LABELS.astype(str)}, "labels are <U21 of 1 dimensions; they must be integers"),
        ({"images": IMAGES, "labels": np.int64(3)}, "labels are int64 of 0 dimensions; they must be integers"),
        ({"images": IMAGES, "labels": LABELS[:0]}, "7 pictures and 0 labels; there must be one label per picture"),
        ({"images": IMAGES, "labels": LABELS * 10**9}, "a label is 2,000,000,000; labels count from 0, up to 9,999"),
        ({"images": IMAGES, "labels": LABELS + 9_998}, "a label is 10,000; labels count from 0, up to 9,999"),
        (
            {"images": IMAGES, "labels": LABELS.astype(np.uint64) + np.uint64(2**64 - 9)},
            "a label is 18,446,744,073,709,551,609; labels count from 0, up to 9,999",
        ),
        ({"images": IMAGES, "labels": LABELS, "classes": np.arange(3.0)}, "classes are float64 [3]; they must be"),
        ({"images": IMAGES, "labels": LABELS, "classes": np.array("a")}, "classes are <U1 []; they must be"),
        ({"images": IMAGES, "classes": np.array(["a" * 101])}, "at most 10,000 names of at most 100 characters"),
        ({"images": IMAGES, "labels": LABELS[:3]}, "7 pictures and 3 labels; there must be one label per picture"),
        ({"pictures": IMAGES}, "has no array 'images' or 'train_images'"),
        ({"images": IMAGES[:0]}, "has no pictures"),
        ({"images": np.stack([IMAGES] * 4, axis=-1)}, "pictures have 4 channels; they must have 1 or 3"),
        ({"images": np.array([object()])}, "Object arrays cannot be loaded"),
        ({"images": IMAGES, "classes": np.array([object()])}, "Object arrays cannot be loaded"),
    ],
)
def test_an_npz_of_other_content_is_refused(tmp_path, arrays, words):
    assert words in refused(write_npz(tmp_path, **arrays))


def test_an_encrypted_array_is_one_line(tmp_path):
    path = write_npz(tmp_path, images=IMAGES, depth=LABELS)
    content = bytearray(path.read_bytes())
    for start, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := content.find(start, place + 1)) >= 0:
            content[place + flags] |= 1
    path.write_bytes(content)
    assert "is not a readable .npz" in refused(path)
    with pytest.raises(InvalidFileError, match="'depth' cannot be read: .*encrypted") as error:
        data._npz_array(path, "depth")
    assert "\n" not in str(error.value)


def npz_of_headers(tmp_path, **headers):
    """An .npz whose arrays are announced, but not there."""
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, (shape, dtype) in headers.items():
            with archive.open(f"{name}.npy", "w") as file:
                header = {"descr": dtype, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
    return path


def test_labels_are_checked_before_pictures_are_read(tmp_path):
    images = ((2**40, 28, 28), "|u1")  # 862 TB
    path = npz_of_headers(tmp_path, images=images, labels=((2**41,), "<i8"))
    assert "1099511627776 pictures and 2199023255552 labels" in refused(path)
    assert "labels are float64" in refused(npz_of_headers(tmp_path, images=images, labels=((2**40,), "<f8")))
    assert "more than fits into the memory" in refused(npz_of_headers(tmp_path, images=images))
    assert "images are float64" in refused(npz_of_headers(tmp_path, images=((2**40, 28, 28), "<f8")))


def test_names_of_classes_may_be_bytes(tmp_path):
    found = read(write_npz(tmp_path, images=IMAGES, labels=LABELS, classes=np.array(["é".encode(), b"b", b"c"])))
    assert found.classes == ("é", "b", "c")


@pytest.mark.parametrize(
    "header", ["{", "(" * 3000, "-" * 9000, "{'descr': ('a',), 'fortran_order': 0, 'shape': (1,)}"]
)
def test_a_damaged_header_in_an_npz_is_one_line(tmp_path, header):
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
    assert "set.npz is not a readable .npz: " in refused(path)


def test_no_labels_are_made_for_pictures_that_are_not_there(tmp_path, monkeypatch):
    path = npz_of_headers(tmp_path, images=((2**29, 1, 1), "|u1"))  # their labels would take 4 GB
    monkeypatch.setattr(np, "full", lambda *_: pytest.fail("labels were made"))
    assert "set.npz is not a readable .npz: " in refused(path)


def test_a_pickle_in_an_npz_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    assert "is not a readable .npz" in refused(write_npz(tmp_path, images=np.array([Trap()], dtype=object)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"\x93NUMPY\x01\x00", b"\x80\x04."])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    assert "is not an .npz; data must be an .npz, or a folder of pictures or IDX files" in refused(path)


def test_a_damaged_npz_is_refused(tmp_path):
    whole = write_npz(tmp_path, images=IMAGES).read_bytes()
    (tmp_path / "set.npz").write_bytes(whole[:200] + bytes(50) + whole[250:])
    assert "is not a readable .npz" in refused(tmp_path / "set.npz")


# --- Folders ----------------------------------------------------------------------------------------------------------


def picture(path, *, size=(6, 5), mode="L", value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_a_subfolder_is_a_class(tmp_path):
    picture(tmp_path / "cat/2.png", value=20)
    picture(tmp_path / "cat/1.PNG", value=10)
    picture(tmp_path / "dog/1.png", value=30)
    (tmp_path / "cat/notes.txt").write_text("no picture")
    found = read(tmp_path)
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [0, 0, 1]
    assert found.images[:, 0, 0, 0].tolist() == [10, 20, 30] and found.images.shape == (3, 5, 6, 1)


def test_pictures_without_subfolders_have_no_label(tmp_path):
    picture(tmp_path / "1.png")
    assert read(tmp_path).labels.tolist() == [-1]


def test_folders_train_and_test_are_the_parts(tmp_path):
    picture(tmp_path / "train/cat/1.png")
    picture(tmp_path / "test/cat/1.png", value=7)
    assert read(tmp_path, split="test").images.max() == 7
    (tmp_path / "test/cat/1.png").unlink(), (tmp_path / "test/cat").rmdir(), (tmp_path / "test").rmdir()
    assert "has no folder 'test'" in refused(tmp_path, NotFoundError, split="test")


def said(path, **options) -> str:
    """The line about what was read, after the path."""
    line = read(path, **options).said
    assert line.startswith(str(path)) and "\n" not in line
    return line.removeprefix(str(path))


@pytest.mark.parametrize(
    "name",
    [
        *(".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"),
        *("#recycle", ".Trash-1000", ".git", "__pycache__", ".thumbnails", "FOUND.000", "@Recycle"),
    ],
)
def test_folders_that_systems_and_tools_leave_behind_are_no_classes(tmp_path, name):
    picture(tmp_path / "cat/1.png")
    picture(tmp_path / "dog/1.png")
    picture(tmp_path / name / "1.png")
    picture(tmp_path / "cat" / name / "1.png")
    found = read(tmp_path)
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [0, 1]
    assert said(tmp_path) == (
        f": 2 pictures in 2 classes (cat, dog); passed over: 2 left by systems and tools ({name}, cat/{name})"
    )


@pytest.mark.parametrize(
    "name", ["._1.png", ".hidden.png", "~$1.png", "Thumbs.db", "desktop.ini", ".DS_Store", "THUMBS.DB", "Picasa.ini"]
)
def test_files_that_systems_and_tools_leave_behind_are_passed_over(tmp_path, name):
    picture(tmp_path / "1.png")
    (tmp_path / name).write_bytes(b"\0\5\x16\7 no picture")
    assert len(read(tmp_path)) == 1
    assert said(tmp_path) == f": 1 picture without labels; passed over: 1 left by systems and tools ({name})"


@pytest.mark.parametrize("name", ["test cases", "DCIM", "lost", "Thumbs", "a.b", "recycle", "#1", "@home", "_x", "~x"])
def test_names_of_a_person_s_own_are_classes(tmp_path, name):
    picture(tmp_path / name / "1.png")
    picture(tmp_path / "zebra/1.png")
    assert set(read(tmp_path).classes) == {name, "zebra"}


def test_what_was_passed_over_is_said_with_its_reason(tmp_path):
    for n in range(5):
        picture(tmp_path / f"cat/{n}.png")
        (tmp_path / f"cat/._{n}.png").touch()
    picture(tmp_path / "dog/1.png")
    (tmp_path / "dog/notes.txt").touch()
    picture(tmp_path / "dog/old/1.png")
    (tmp_path / "dog/odd.png").mkdir()
    picture(tmp_path / "cover.png")
    (tmp_path / "empty").mkdir()
    assert said(tmp_path) == (
        ": 6 pictures in 2 classes (cat, dog); passed over: 5 left by systems and tools (cat/._0.png, cat/._1.png,"
        " cat/._2.png, …), 1 of other kinds (dog/notes.txt), 1 next to the folders that were read (cover.png),"
        " 1 without pictures (empty), 2 inside class folders (dog/odd.png, dog/old)"
    )
    assert said(tmp_path, limit=2).startswith(": 2 of 6 pictures in 2 classes")


def test_what_was_read_is_said_of_other_data_too(tmp_path):
    assert said(write_npz(tmp_path, images=IMAGES, labels=LABELS)) == ": 7 pictures in 3 classes (0, 1, 2)"
    assert said(write_npz(tmp_path, images=IMAGES)) == ": 7 pictures without labels"
    assert said(write_npz(tmp_path, test_images=IMAGES), split="test") == ", test: 7 pictures without labels"
    (tmp_path / "._train-images-idx3-ubyte").touch()
    assert said(write_idx(tmp_path)) == ", train: 7 pictures in 3 classes (0, 1, 2)"


def test_only_what_was_left_behind_is_no_data(tmp_path):
    (tmp_path / "._1.png").touch()
    (tmp_path / "._train-images-idx3-ubyte").touch()
    assert refused(tmp_path).endswith("; passed over: 2 left by systems and tools (._1.png, ._train-images-idx3-ubyte)")


def test_a_folder_of_its_own_name_may_be_hidden(tmp_path):
    picture(tmp_path / ".cache/cat/1.png")
    assert read(tmp_path / ".cache").classes == ("cat",)


# --- Parts or classes ---


@pytest.mark.parametrize("name", ["train", "test", "val", "Train", "validation", "training"])
def test_a_folder_like_a_part_next_to_classes_is_a_class(tmp_path, name):
    for folder in ("bus", "car", name):
        picture(tmp_path / folder / "1.png")
    for split in ("train", "test"):
        assert read(tmp_path, split=split).classes == tuple(sorted(("bus", "car", name)))


@pytest.mark.parametrize(
    "train, test", [("train", "test"), ("train", "val"), ("Train", "Validation"), ("training", "testing")]
)
@pytest.mark.parametrize("inner", ["", "cat"])
def test_parts_only_next_to_each_other_are_the_parts(tmp_path, train, test, inner):
    picture(tmp_path / train / inner / "1.png", value=1)
    picture(tmp_path / test / inner / "1.png", value=2)
    picture(tmp_path / ".ipynb_checkpoints/1.png")
    (tmp_path / "docs").mkdir()
    picture(tmp_path / "cover.png")
    for split, value in (("train", 1), ("test", 2)):
        found = read(tmp_path, split=split)
        assert found.images.max() == value and found.classes == ((inner,) if inner else ())
    assert said(tmp_path).startswith(f"/{train}: 1 picture ")
    assert "1 next to the folders that were read (cover.png)" in said(tmp_path)


def test_with_three_parts_the_test_part_is_measured(tmp_path):
    for value, name in enumerate(("train", "val", "test")):
        picture(tmp_path / name / "cat/1.png", value=value)
    assert read(tmp_path, split="train").images.max() == 0 and read(tmp_path, split="test").images.max() == 2


@pytest.mark.parametrize(
    "files",
    [
        ["train/1.png"],  # one class, or the only part
        ["test/1.png"],
        ["test/1.png", "val/1.png"],
        ["train/cat/1.png", "bus/1.png"],
        ["train/cat/1.png", "test/cat/1.png", "bus/1.png"],
        ["train/1.png", "Train/2.png", "test/1.png"],
    ],
)
def test_what_can_be_a_class_or_a_part_is_asked(tmp_path, files):
    for file in files:
        picture(tmp_path / file)
    folder = tmp_path / files[0].split("/")[0]
    line = refused(tmp_path, UsageError)
    assert (
        line.startswith(f"{tmp_path} is ambiguous: '") and "can be a class or a part of the data; give --data " in line
    )
    assert len(read(folder)) == 1  # as the line advises


def test_folders_of_folders_need_another_level(tmp_path):
    picture(tmp_path / "animals/cat/1.png")
    assert "has no pictures" in refused(tmp_path) and "1 without pictures (animals)" in refused(tmp_path)


def test_mixed_sizes_ask_for_image_size_which_then_scales_and_crops(tmp_path):
    picture(tmp_path / "a.png", size=(6, 5))
    picture(tmp_path / "b.png", size=(9, 12))
    words = refused(tmp_path, UsageError)
    assert "have 2 sizes, 6x5 to 9x12, most often 6x5: give --image-size 6x5 to crop and scale all of them" in words
    assert read(tmp_path, image_size=(8, 8)).images.shape == (2, 8, 8, 1)


def test_an_unreadable_picture_is_named(tmp_path):
    picture(tmp_path / "cat/1.png")
    (tmp_path / "cat/2.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")
    assert "cat/2.png is a damaged PNG file" in refused(tmp_path)


def test_a_folder_without_pictures_says_what_pictures_are(tmp_path):
    assert "has no pictures (.bmp, .gif, .jpeg, .jpg, .png, .webp)" in refused(tmp_path)


def test_no_data_at_all(tmp_path):
    assert refused(tmp_path / "nowhere", NotFoundError) == f"no data at {tmp_path}/nowhere"


# --- All kinds --------------------------------------------------------------------------------------------------------


def test_colour_becomes_grey_as_pillow_does_it_and_grey_is_repeated(tmp_path):
    colour = RNG.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    grey = read(write_npz(tmp_path, images=colour)).images
    pillow = np.stack([np.asarray(Image.fromarray(c).convert("L")) for c in colour])[..., None]
    assert np.abs(grey.astype(int) - pillow).max() <= 1
    assert np.array_equal(read(write_npz(tmp_path, images=colour), channels=3).images, colour)
    repeated = read(write_npz(tmp_path, images=IMAGES), channels=3).images
    assert all(np.array_equal(repeated[..., c], IMAGES) for c in range(3))


def test_a_limit_takes_the_first(tmp_path):
    found = read(write_npz(tmp_path, images=IMAGES, labels=LABELS), limit=3)
    assert np.array_equal(found.images[..., 0], IMAGES[:3]) and found.labels.tolist() == [0, 1, 2]


def test_class_names_can_be_given_but_not_too_few(tmp_path):
    write_idx(tmp_path)
    assert read(tmp_path, classes=("a", "b", "c", "d")).classes == ("a", "b", "c", "d")
    assert "has labels up to 2, but there are 2 class names" in refused(tmp_path, UsageError, classes=("a", "b"))


def test_two_classes_of_one_name_are_refused(tmp_path):
    """`--label cat` could mean either."""
    for name in ("idx", "folders", "table"):
        (tmp_path / name).mkdir()
    twice = "the classes 0 and 2 are both called 'cat'"
    assert twice in refused(write_idx(tmp_path / "idx"), UsageError, classes=("cat", "dog", "cat"))
    arrays = {"images": IMAGES, "labels": LABELS}
    assert twice in refused(write_npz(tmp_path, **arrays, classes=np.array(["cat", "dog", "cat"])))
    named = np.array(["dim", "bright", "dim"])
    assert "style_classes: the classes 0 and 2 are both called 'dim'" in refused(
        write_npz(tmp_path, **arrays, style=LABELS, style_classes=named)
    )
    for name in ("Cat", "cat", "dog"):
        picture(tmp_path / "folders" / name / "1.png")
    assert "the classes 0 and 1 are called 'Cat' and 'cat', which zoo does not tell apart; rename one" in refused(
        tmp_path / "folders", UsageError
    )
    for name in ("1", "2"):
        picture(tmp_path / "table" / f"{name}.png")
    (tmp_path / "table" / "metadata.csv").write_text("file_name,style\n1.png,Dim\n2.png,dim\n")
    assert "metadata.csv: style: the classes 0 and 1 are called 'Dim' and 'dim'" in refused(tmp_path / "table")


def test_data_with_class_names_is_renumbered_after_those_given(tmp_path):
    picture(tmp_path / "cat/1.png")
    picture(tmp_path / "dog/1.png")
    found = read(tmp_path, classes=("dog", "bird", "cat"))
    assert found.labels.tolist() == [2, 0] and found.classes == ("dog", "bird", "cat")
    assert "has the class 'dog', not one of cat, dot; did you mean 'dot'?" in refused(
        tmp_path, UsageError, classes=("cat", "dot")
    )


def test_the_digest_is_of_pictures_and_labels():
    one = Dataset("a", "train", IMAGES[..., None], LABELS, ())
    assert one.sha256 == Dataset("b", "test", IMAGES[..., None].copy(), LABELS.copy(), ("x",)).sha256
    assert one.sha256 != Dataset("a", "train", IMAGES[..., None], LABELS[::-1], ()).sha256
    assert one.sha256 != Dataset("a", "train", IMAGES[::-1, ..., None], LABELS, ()).sha256


# --- Sampler ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 50), st.data(), st.integers(0, 5))
def test_an_epoch_shows_every_picture_once_but_the_rest_that_fills_no_batch(number, draw, seed):
    batch_size = draw.draw(st.integers(1, number))
    sampler = Sampler(number, batch_size, seed)
    for epoch in range(3):
        first = epoch * sampler.steps_per_epoch
        seen = np.concatenate([sampler.indices(first + step) for step in range(sampler.steps_per_epoch)])
        assert len(seen) == len(set(seen)) == number - number % batch_size
        assert set(seen) <= set(range(number))


def test_a_resumed_sampler_shows_what_the_first_would_have():
    whole, resumed = Sampler(20, 3, 7), Sampler(20, 3, 7)
    expected = [whole.indices(step).tolist() for step in range(30)]
    assert [resumed.indices(step).tolist() for step in range(17, 30)] == expected[17:]


def test_epochs_and_seeds_differ_in_order():
    sampler = Sampler(100, 100, 0)
    orders = [sampler.indices(0), sampler.indices(1), Sampler(100, 100, 1).indices(0)]
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("batch_size", [0, 11])
def test_a_batch_must_fit_the_data(batch_size):
    with pytest.raises(
        UsageError, match=f"batch size {batch_size}; it must be between 1 and the number of pictures, 10"
    ):
        Sampler(10, batch_size, 0)


# --- What the pictures are like, and pictures held out ----------------------------------------------------------------


def test_pictures_are_read_as_they_are_unless_told_otherwise(tmp_path):
    colour = RNG.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    assert read(write_npz(tmp_path, images=colour), channels=None).images.shape == (4, 5, 6, 3)
    grey = read(write_npz(tmp_path, images=np.repeat(IMAGES[..., None], 3, axis=-1)), channels=None)
    assert np.array_equal(grey.images[..., 0], IMAGES) and not grey.changes, "three equal channels are grey"
    picture(tmp_path / "f/a.png", mode="RGB", value=(1, 2, 3))
    picture(tmp_path / "f/b.png")
    mixed = read(tmp_path / "f", channels=None)
    assert mixed.images.shape[-1] == 3 and mixed.changes == {"repeated in three channels": 1}
    assert read(tmp_path / "f", channels=1).changes == {"converted to grey": 1}


def test_the_facts_of_data(tmp_path):
    found = read(write_npz(tmp_path, images=IMAGES, labels=LABELS, classes=np.array(["a", "b", "c"])), channels=None)
    assert found.facts == DataFacts(height=5, width=6, channels=1, classes=("a", "b", "c"), number=7)
    assert read(write_npz(tmp_path, images=IMAGES)).facts.classes == ()


def test_arrays_are_scaled_as_files_are(tmp_path):
    images = RNG.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        (tmp_path / "f").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"f/{number}.png")
    options = {"channels": 3, "image_size": (8, 10)}
    one, other = read(write_npz(tmp_path, images=images), **options), read(tmp_path / "f", **options)
    assert one.images.shape == (2, 8, 10, 3) and np.array_equal(one.images, other.images)
    assert dict(one.changes)["cropped at the centre and scaled to 10x8"] == 2


@pytest.mark.parametrize("text, size", [("32", (32, 32)), ("48x40", (40, 48))])
def test_an_image_size_is_width_by_height(text, size):
    assert data.size_of(text) == size


@pytest.mark.parametrize("text", ["", "0", "x", "48x", "48x40x3", "-3", "4.5"])
def test_an_image_size_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="must look like 48x40"):
        data.size_of(text)


@pytest.mark.parametrize("text", ["99999", "1000x99999"])
def test_an_image_size_over_the_limit_is_refused(text):
    with pytest.raises(UsageError, match=r"the image size .* has [0-9,]+ pixels; it may have at most 40,000,000"):
        data.size_of(text)


def test_a_tenth_is_held_out_and_a_seed_decides_which():
    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
    whole = Dataset("d", "all", images, np.arange(50), ())
    kept, held = data.hold_out(whole, None, 3)
    assert (len(kept), len(held)) == (45, 5) and not set(kept.labels) & set(held.labels)
    assert np.array_equal(kept.images.ravel(), kept.labels) and kept.split == "all but 5 held out"
    assert np.array_equal(data.hold_out(whole, None, 3)[1].labels, held.labels)
    assert not np.array_equal(data.hold_out(whole, None, 4)[1].labels, held.labels)
    assert data.hold_out(whole, 0, 3) == (whole, None)
    assert data.hold_out(whole.part(np.arange(19), "all"), None, 3)[1] is None
