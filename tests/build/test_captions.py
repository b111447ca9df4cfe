"""Captions and other named values of a folder's pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.build import data as datasets
from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import Port

TEXT = Port(kind="text", dtype="uint8", shape=("batch", 32), default=0)
STYLE = Port(kind="label", dtype="int64", shape=("batch",), minimum=0, maximum=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8), name and {"a": "red", "b": "green", "c": "blue"}[name]).save(tmp_path / f"{name}.png")
    return tmp_path


def read(folder: Path) -> datasets.Dataset:
    return datasets.read(folder, split="train")


def texts(folder: Path) -> list[str]:
    rows = read(folder).take({"text": TEXT}).arrays["text"]
    return [bytes(row).rstrip(b"\0").decode() for row in rows]


def write(folder: Path, **captions: str) -> None:
    for name, caption in captions.items():
        (folder / f"{name}.txt").write_text(caption, encoding="utf-8")


def table(folder: Path, *rows: dict) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_text_file_is_the_caption_of_the_picture_next_to_it(folder):
    write(folder, a="\ufeffa red square\n", b="green\nthe second", c="blau, é")
    (folder / "notes.txt").write_text("not a caption")
    assert texts(folder) == ["a red square", "green\nthe second", "blau, é"]
    assert "1 of other kinds (notes.txt)" in read(folder).said and "a.txt" not in read(folder).said


def test_captions_follow_the_pictures_into_a_part(folder):
    write(folder, a="one", b="two", c="three")
    part = read(folder).part(np.array([2, 0]), "train").take({"text": TEXT})
    assert [bytes(row).rstrip(b"\0") for row in part.arrays["text"]] == [b"three", b"one"]


def test_class_folders_have_their_captions(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
        (tmp_path / name / "1.txt").write_text(f"a {name}")
    assert read(tmp_path).classes == ("cat", "dog") and texts(tmp_path) == ["a cat", "a dog"]
    for name in ("cat", "dog"):
        (tmp_path / name / "1.txt").unlink()
    table(tmp_path, {"file_name": "dog/1.png", "text": "D"}, {"file_name": "cat/1.png", "text": "C"})
    assert texts(tmp_path) == ["C", "D"]


def test_a_table_of_json_lines_has_captions_choices_and_numbers(folder):
    table(
        folder,
        {"file_name": "c.png", "text": "three", "style": "old", "weight": 0.5},
        {"file_name": "a.png", "text": "one", "style": "new", "weight": 2},
        {"file_name": "b.png", "text": "two", "style": "old", "weight": 1},
    )
    assert texts(folder) == ["one", "two", "three"]
    found = read(folder)
    assert found.columns["style"].facts.classes == ("new", "old")
    assert found.take({"style": STYLE}).arrays["style"].tolist() == [0, 1, 1]
    assert found.columns["weight"].facts.dtype == "float32" and "passed over" not in found.said


@pytest.mark.parametrize("name", ["metadata.csv", "captions.csv"])
def test_a_table_of_comma_separated_values(folder, name):
    rows = 'file_name,text,style,count\na.png,"one, or 1",new,3\nb.png,two,old,4\nc.png,"thr""ee",new,5\n'
    (folder / name).write_text(rows)
    assert texts(folder) == ["one, or 1", "two", 'thr"ee']
    assert read(folder).columns["count"].facts.dtype == "int64"
    assert read(folder).take({"style": STYLE}).arrays["style"].tolist() == [0, 1, 0]


def test_a_table_about_other_things_is_passed_over(folder):
    (folder / "metadata.csv").write_text("camera,lens\nx,y\n")
    assert "1 of other kinds (metadata.csv)" in read(folder).said and not read(folder).columns


@pytest.mark.parametrize(
    "rows, reason",
    [
        ('{"file_name": "x.png", "text": "?"}', "line 1: file_name is 'x.png', which is not a picture of this folder"),
        ('{"file_name": "../a.png", "text": "?"}', "file_name is '../a.png', which is not a picture"),
        ('{"file_name": "a.png"}\n[1]', "line 2: it is not a JSON object"),
        ('{"file_name": "a.png"}\n{"file_name"', "line 2: it is not a JSON object"),
        ('{"file_name": "a.png"}\n\n{"file_name": "a.png"}', "line 3: a.png is there twice"),
        ('{"file_name": "a.png", "text": 7}', "a text is not a text of at most"),
        ('{"file_name": "a.png", "style": "' + "x" * 101 + '"}', "captions are the column 'text'"),
        ('{"file_name": "a.png", "text": "\xff"}', "metadata.jsonl is not UTF-8"),
    ],
)
def test_a_wrong_line_is_named(folder, rows, reason):
    (folder / "metadata.jsonl").write_bytes(rows.encode("latin-1"))
    with pytest.raises(InvalidFileError) as refused:
        read(folder)
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_a_row_of_another_length_is_named(folder):
    (folder / "metadata.csv").write_text("file_name,text\na.png,one,two\n")
    with pytest.raises(InvalidFileError, match="line 2: it has 3 values; the header has 2"):
        read(folder)


def test_pictures_without_a_caption_are_counted_when_a_model_needs_it(folder):
    write(folder, b="two")
    assert len(read(folder)) == 3  # a model that needs no text does not mind
    with pytest.raises(UsageError, match=r"a\.png and 1 others have no text"):
        texts(folder)


@pytest.mark.parametrize("caption, reason", [(b"\xff", "a.txt is not UTF-8"), (b"x" * 70_000, "a caption has at most")])
def test_a_caption_that_cannot_be_read_is_named(folder, caption, reason):
    write(folder, a="", b="two", c="three")
    (folder / "a.txt").write_bytes(caption)
    with pytest.raises(InvalidFileError, match=reason):
        texts(folder)


def test_a_caption_over_the_ports_length_is_refused(folder):
    write(folder, a="x" * 33, b="two", c="three")
    with pytest.raises(UsageError, match="is 33 bytes of UTF-8; this model takes at most 32"):
        texts(folder)


def test_captions_in_two_places_are_refused(folder):
    write(folder, a="one")
    table(folder, {"file_name": "a.png", "text": "one"})
    with pytest.raises(UsageError, match=r"captions in metadata\.jsonl and in files such as a\.txt; keep one"):
        read(folder)
    (folder / "metadata.csv").write_text("file_name,text\na.png,one\n")
    with pytest.raises(UsageError, match=r"has metadata\.csv and metadata\.jsonl; keep one of them"):
        read(folder)


# --- Classes of a model -----------------------------------------------------------------------------------------------

NAMED = Port(kind="label", dtype="int64", shape=("batch",), minimum=-1, maximum=2, classes=("flat", "drawn", "photo"))


def styles(folder: Path, port: Port) -> list[int]:
    return read(folder).take({"style": port}).arrays["style"].tolist()


def test_words_get_the_numbers_that_they_have_in_the_model(folder):
    """A folder with two of a model's three styles: their own order is another one."""
    table(folder, *({"file_name": f"{n}.png", "style": s} for n, s in zip("abc", ("photo", "drawn", "photo"))))
    assert read(folder).facts.arrays["style"].classes == ("drawn", "photo")
    assert styles(folder, NAMED) == [2, 1, 2]
    assert styles(folder, STYLE) == [1, 0, 1]  # a port without names: the data's own numbers


def test_words_that_the_model_does_not_know_are_refused(folder):
    table(folder, *({"file_name": f"{n}.png", "style": s} for n, s in zip("abc", ("photo", "flatt", "photo"))))
    with pytest.raises(UsageError, match="^'style' has the class 'flatt', not one of flat, drawn, photo; did you mean"):
        styles(folder, NAMED)


def test_named_labels_of_an_npz_are_renumbered_too_and_those_without_a_name_are_refused(tmp_path):
    def found(style: list) -> list[int]:
        names = np.array(["photo", "flat"])
        np.savez(tmp_path / "x.npz", images=np.zeros((3, 8, 8), np.uint8), style=style, style_classes=names)
        return styles(tmp_path / "x.npz", NAMED)

    assert found([0, 1, -1]) == [2, 0, -1]
    for wrong in ([0, 1, 2], [0, 1, -2], [0.0, 1.0, 1.0]):
        with pytest.raises(UsageError, match="^'style' must be integers from 0 to 1, as there are 2 class names$"):
            found(wrong)


# --- Pictures and masks of pictures -----------------------------------------------------------------------------------

MASK = Port(kind="mask", dtype="uint8", shape=("batch", "height", "width", 1))
AFTER = Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 3))


def masks(folder: Path, size: tuple[int, int] = (8, 8)) -> list[str]:
    """A mask of each picture, whose left columns are white: one for a, two for b, three for c; their names."""
    (folder / "masks").mkdir()
    for wide, name in enumerate("abc", 1):
        mask = Image.new("L", size)
        mask.paste(255, (0, 0, wide, size[1]))
        mask.save(folder / "masks" / f"{name}.png")
    return [f"masks/{name}.png" for name in "abc"]


def white_columns(data: datasets.Dataset) -> list[int]:
    found = data.take({"mask": MASK}).arrays["mask"]
    assert found.shape == (*data.images.shape[:3], 1)
    return [int((mask[0, :, 0] >= 128).sum()) for mask in found]


def test_a_column_of_files_is_the_mask_or_the_pair_of_each_picture(folder):
    rows = [
        {"file_name": f"{name}.png", "mask_file_name": mask, "after_file_name": f"b{name}.png"}
        for name, mask in zip("abc", masks(folder))
    ]
    for name, level in zip("abc", (10, 20, 30)):
        Image.new("L", (8, 8), level).save(folder / f"b{name}.png")
    table(folder, *rows[::-1])
    found = read(folder)
    assert len(found) == 3 and found.classes == () and "passed over" not in found.said  # these are not its pictures
    assert found.facts.arrays["mask"].shape == (8, 8)
    assert white_columns(found) == [1, 2, 3]
    assert white_columns(found.part(np.array([2, 0]), "train")) == [3, 1]
    after = found.take({"after": AFTER}).arrays["after"]
    assert after.shape == (3, 8, 8, 3) and after[:, 0, 0].tolist() == [[10] * 3, [20] * 3, [30] * 3]


def test_masks_of_pictures_in_classes_and_parts(tmp_path):
    part = tmp_path / "train"
    for name in ("cat", "dog"):
        (part / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(part / name / "1.png")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "test" / "cat" / "1.png")
    a, b, _ = masks(part)
    table(part, {"file_name": "cat/1.png", "mask_file_name": b}, {"file_name": "dog/1.png", "mask_file_name": a})
    found = read(tmp_path)
    assert found.classes == ("cat", "dog") and white_columns(found) == [2, 1]
    assert found.said.endswith("; passed over: 1 next to files of the table (train/masks/c.png)")


def test_masks_are_cropped_and_scaled_as_their_pictures_are(folder):
    for name in "abc":
        Image.new("RGB", (16, 8)).save(folder / f"{name}.png")
    table(folder, *({"file_name": f"{n}.png", "mask_file_name": m} for n, m in zip("abc", masks(folder, (16, 8)))))
    assert white_columns(read(folder)) == [1, 2, 3]
    assert white_columns(datasets.read(folder, split="train", image_size=(8, 8))) == [0, 0, 0]  # cropped away
    assert white_columns(datasets.read(folder, split="train", image_size=(16, 32))) == [2, 4, 6]


def test_a_mask_of_another_size_is_named(folder):
    table(folder, *({"file_name": f"{n}.png", "mask_file_name": m} for n, m in zip("abc", masks(folder, (8, 9)))))
    assert len(read(folder)) == 3
    with pytest.raises(InvalidFileError, match=r"masks/a.png is 8x9 pixels and .*a.png is 8x8; they must"):
        white_columns(read(folder))


def test_every_picture_needs_its_mask(folder):
    table(folder, {"file_name": "b.png", "mask_file_name": masks(folder)[1]}, {"file_name": "c.png"})
    with pytest.raises(UsageError, match=r"a\.png and 1 others have no mask; every picture needs it"):
        white_columns(read(folder))


@pytest.mark.parametrize("value", ["../a.png", "/etc/a.png", "none.png", "metadata.jsonl", ".", 7])
def test_a_file_that_is_not_in_the_folder_is_refused(folder, value):
    table(folder, {"file_name": "a.png", "mask_file_name": value})
    with pytest.raises(InvalidFileError, match=r"metadata\.jsonl, line 1: mask_file_name is .*not a picture file"):
        read(folder)


def test_two_columns_of_one_name_are_refused(folder):
    table(folder, {"file_name": "a.png", "mask": 1, "mask_file_name": masks(folder)[0]})
    with pytest.raises(InvalidFileError, match="has the columns mask and mask_file_name; keep one of them"):
        read(folder)


def test_files_are_not_numbers(folder):
    table(folder, *({"file_name": f"{n}.png", "style_file_name": m} for n, m in zip("abc", masks(folder))))
    with pytest.raises(UsageError, match=r"^'style' has picture files; the model takes int64 \[batch\], 0 .. 1$"):
        read(folder).take({"style": STYLE})
