import contextlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from tests import tiny
from tests.clean import is_clean
from zoo.errors import InvalidFileError, NotFoundError, UsageError
from zoo.formats import manifest, strictyaml
from zoo.formats.fields import File
from zoo.formats.manifest import Export, Manifest, Training
from zoo.hookspecs import Metric, Port, Task, Tolerance
from zoo.names import MANIFEST
from zoo.ports.inputs import complete
from zoo.ports.kind import RANGES
from zoo.ports.kinds import KINDS, kind_of, problem

ports = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), min_size=1, max_size=60)
small = st.integers(0, 10**12)
floats = st.floats(0, 1e6, allow_subnormal=False)
sizes = st.builds(File, size=st.integers(0, 1 << 50), sha256=digests)


def shapes(kind):
    """Shapes that ports of a kind may have."""
    ranks = st.sampled_from(kind.ranks) if kind.ranks else st.integers(0, 4)
    lengths = ranks.flatmap(lambda rank: st.lists(ports | st.integers(1, 4096), min_size=rank, max_size=rank))
    first = ["batch"] if kind.shape.startswith("[batch") else []
    last = st.sampled_from(kind.last) if kind.last else st.none()
    return st.tuples(lengths, last).map(
        lambda drawn: (
            (*(first if drawn[0] else []), *drawn[0][len(first) : -1 if drawn[1] else None])
            + ((drawn[1],) if drawn[1] else ())
        )
    )


@st.composite
def any_port(draw):
    """A port of any kind, with what its kind allows."""
    kind = draw(st.sampled_from(list(KINDS.values())))
    whole = st.integers(0, int(min(RANGES[kind.dtype][1], 2**53 - 1)))
    low, middle, high = sorted(draw(st.lists(floats if kind.dtype == "float32" else whole, min_size=3, max_size=3)))
    shape = draw(shapes(kind))
    if kind.name == "text":  # at most so many bytes; no bounds, and no default but the empty text
        shape, low, middle, high = ("batch", draw(st.integers(1, 4096))), None, 0, None
    elif kind.name == "audio":  # -1 .. 1 always
        low = high = None
    fields = {
        "minimum_size": draw(st.none() | st.integers(1, 4096)),
        "classes": draw(st.lists(texts, max_size=3, unique_by=lambda name: name.strip().casefold()).map(tuple)),
        "sample_rate": draw(st.integers(1_000, 1_000_000)),
        "maximum_samples": draw(st.integers(1, 1_000_000)) if len(shape) == 3 and isinstance(shape[1], str) else None,
        "frame_rate": draw(st.integers(1, 240)),
        "maximum_frames": draw(st.integers(2, 10_000)) if len(shape) == 5 and isinstance(shape[1], str) else None,
    }
    made = Port(
        kind=kind.name,
        dtype=kind.dtype,
        shape=shape,
        summary=draw(texts),
        default=draw(st.none() | st.just(middle)) if kind.repeats or not shape else None,
        minimum=draw(st.none() | st.just(low)),
        maximum=draw(st.none() | st.just(high)),
        **{name: value for name, value in fields.items() if name in kind.fields},
    )
    return msgspec.structs.replace(made, classes=()) if problem(made) else made  # fewer classes than values


port = any_port()
tasks = st.builds(
    Task,
    summary=lines,
    inputs=st.dictionaries(ports, port, max_size=3),
    outputs=st.dictionaries(ports, port, min_size=1, max_size=2),
)
configs = st.dictionaries(
    ports,
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | texts | floats | st.lists(small, max_size=3),
    max_size=4,
)


@st.composite
def manifests(draw):
    listed = draw(st.dictionaries(ports, tasks, min_size=1, max_size=3))
    files = {f"{name}.onnx": draw(sizes) for name in listed} | {"model.safetensors": draw(sizes)}
    return Manifest(
        format=1,
        name=draw(names),
        version=draw(st.integers(1, 10**9)),
        family=draw(names),
        summary=draw(lines),
        license=draw(st.sampled_from(["MIT", "Apache-2.0", "CC-BY-4.0 OR MIT"])),
        license_note=draw(texts),
        config=draw(configs),
        classes=draw(st.lists(texts, max_size=3, unique_by=lambda name: name.strip().casefold()).map(tuple)),
        default_task=draw(st.sampled_from(sorted(listed))),
        tasks=listed,
        tolerances={
            "float32/cpu": draw(
                st.builds(Tolerance, absolute=floats, pixel_levels=st.integers(0, 255), log_mel=st.just(UNSET) | floats)
            )
        },
        training=draw(st.builds(Training, command=texts, images_seen=small, seconds=floats)),
        metrics=tuple(
            draw(st.lists(st.builds(Metric, name=ports, value=st.floats(-1e6, 1e6), data=texts), max_size=2))
        ),
        export=Export(opset=draw(st.integers(1, 30)), ir_version=draw(st.integers(1, 15))),
        files=files,
    )


@settings(max_examples=30)
@given(manifests())
def test_what_is_written_is_read_back(m):
    data = manifest.dump(m)
    assert manifest.parse(data, "model.yaml") == m
    assert manifest.dump(manifest.parse(data, "model.yaml")) == data  # so the digest stays


wild = st.none() | st.sampled_from(
    [-1, 0, 300, 2**53, 2**63, 10**17, 0.5, -1.5, 1e300, -1e300, float("nan"), float("inf")]
)


@settings(max_examples=400)
@given(
    st.builds(
        Port,
        kind=st.sampled_from(list(KINDS)),
        dtype=st.sampled_from(list(RANGES)),
        shape=st.lists(st.sampled_from(["batch", "rows", 1, 2, 3, 10**17]), max_size=5).map(tuple),
        default=wild,
        minimum=wild,
        maximum=wild,
        minimum_size=st.none() | st.just(8),
        maximum_pixels=st.none() | st.just(64),
        classes=st.sampled_from([(), ("a", "b"), ("a", "a")]),
        noise=st.sampled_from(["", "normal"]),
    )
)
def test_a_port_that_lies_is_refused_and_any_other_can_be_used(lying):
    if wrong := problem(lying):
        assert is_clean(wrong) and "\n" not in wrong
        return
    kind, task = kind_of(lying), Task(summary="x", inputs={"x": lying}, outputs={"x": lying})
    assert [*kind.limits(lying), kind.describe(lying), kind.help("x", lying, "")] and kind.host(lying)
    kind.option("x", lying, task)
    low, high = kind.bounds(lying)
    shape = [2 if isinstance(d, str) else d for d in lying.shape]
    if lying.default is None and np.prod(shape) < 1e6:
        value = np.full(shape, low if low is not None else 0 if high is None else min(high, 0), lying.dtype)
        with contextlib.suppress(UsageError):  # a picture that is too small
            complete("t", task, {"x": value})
    elif lying.default is not None:
        complete("t", task, {})


@pytest.mark.parametrize(
    ("port", "says"),
    [
        ({"maximum": 300}, "maximum is 300; uint8 is 0 .. 255"),
        ({"minimum": -1}, "minimum is -1; uint8 is 0 .. 255"),
        ({"minimum": 0.5}, "minimum is 0.5; it must be a whole number"),
        ({"minimum": 9, "maximum": 8}, "minimum is 9, which is above maximum, 8"),
        ({"default": 8}, "ports of the kind image have no default"),
        ({"classes": ["a"]}, "ports of the kind image have no classes"),
        ({"shape": [7, "height", "width", 1]}, "the first dimension of the kind image is batch, not 7"),
        ({"shape": ["batch", 10**17, 8, 1]}, "a dimension is 100,000,000,000,000,000; at most 2,147,483,647"),
        ({"shape": ["batch", "height", 1]}, "ports of the kind image have the shape [batch, height, width, channels]"),
        ({"kind": "tokens", "dtype": "int64", "shape": ["batch", "codes"]}, "the shape [batch, rows, columns]"),
        ({"kind": "count", "dtype": "int64", "shape": [], "maximum": 1e300}, "maximum is 1e+300; int64 is -922"),
        ({"kind": "count", "dtype": "int64", "shape": [], "default": 9, "maximum": 8}, "default is 9; it must be at"),
        ({"kind": "seed", "dtype": "int64", "shape": ["batch"], "maximum": 2**54}, "a seed is 0 .. 9007199254740991"),
        ({"kind": "label", "dtype": "int64", "shape": ["batch"], "classes": ["a", "b", " A"]},
         "the classes 0 and 2 are called 'a' and ' A', which zoo does not tell apart"),
        ({"kind": "size", "dtype": "int64", "shape": [3]}, "the last dimension of the kind size is 2, not 3"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_port_that_its_kind_does_not_allow_names_its_line(folder, side, port, says):
    tree = msgspec.to_builtins(manifest.read(folder))
    name = next(iter(tree["tasks"]["double"][side]))
    tree["tasks"]["double"][side][name] = {"kind": "image", "dtype": "uint8", "shape": ["batch", "h", "w", 1]} | port
    with pytest.raises(InvalidFileError, match=rf"model.yaml:\d+: tasks\.double\.{side}\.{name}: ") as refused:
        manifest.parse(strictyaml.dump(tree), "model.yaml")
    assert says in str(refused.value)


SCORE = {"kind": "scalar", "dtype": "float32", "shape": ["batch"]}
PICTURE = {"kind": "image", "dtype": "uint8", "shape": ["batch", "height", "width", 1]}
CODES = {"kind": "tokens", "dtype": "int64", "shape": ["batch", "rows", "columns"]}
SIZE = {"kind": "size", "dtype": "int64", "shape": [2]}


@pytest.mark.parametrize(
    ("inputs", "outputs", "says"),
    [
        ({"x": PICTURE}, {}, "'double' has no outputs"),
        ({"x": SCORE}, {"y": SCORE}, "'double' has a tile, but takes no pictures or tokens"),
        ({"x": SCORE}, {"y": PICTURE}, "'double' has a tile, but takes no pictures or tokens"),
        ({"x": PICTURE}, {"y": PICTURE, "z": SCORE}, "'double' has a tile, but gives 'z', which does not cover a pic"),
        ({"x": PICTURE}, {"y": CODES | {"shape": ["batch", 7, 7]}}, "'double' has a tile, but 'y' has a fixed size"),
        ({"x": PICTURE}, {"y": PICTURE | {"maximum": 300}}, r"tasks\.double\.outputs\.y: maximum is 300"),
        ({"x": PICTURE, "scale": SCORE}, {"y": CODES, "size": SIZE}, ""),
        ({"x": CODES, "size": SIZE}, {"y": PICTURE}, ""),
    ],
)
def test_a_task_that_gives_nothing_or_cannot_run_in_its_tiles_is_refused(folder, inputs, outputs, says):
    tree = msgspec.to_builtins(manifest.read(folder))
    tree["tasks"]["double"] |= {"inputs": inputs, "outputs": outputs, "tile": {"multiple": 4, "context": 0}}
    with pytest.raises(InvalidFileError, match=says) if says else contextlib.nullcontext():
        manifest.parse(strictyaml.dump(tree), "model.yaml")


@pytest.fixture
def folder(tmp_path):
    return tiny.bundle(tmp_path / "tiny")


def test_bundle_is_right(folder):
    m = manifest.read(folder)
    assert manifest.check_files(folder, m) == []
    assert m.size == sum(p.stat().st_size for p in folder.iterdir() if p.name != MANIFEST)
    assert m.task(None) == ("double", m.tasks["double"]) == m.task("double")


def test_task_that_misses_is_told_with_the_nearest(folder):
    with pytest.raises(NotFoundError, match=r"tiny has no task 'dubble'; it has double; did you mean 'double'\?"):
        manifest.read(folder).task("dubble")


def test_folder_without_a_manifest(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFoundError, match=r"is not a bundle: it has no model\.yaml"):
            manifest.read(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(format=2), "format 2; this version of zoo reads format 1"),
        (lambda d: d.update(tasks={}), "a model must have at least one task"),
        (lambda d: d.update(classes=["cat", "dog", "cat"]), "classes: the classes 0 and 2 are both called 'cat'"),
        (lambda d: d.update(default_task="other"), "default_task: 'other' is not one of the tasks double"),
        (lambda d: d["files"].pop("double.onnx"), "double.onnx, the graph of the task 'double', is not listed"),
        (lambda d: d["files"].update({"model.yaml": {"size": 1, "sha256": "a" * 64}}), "model.yaml cannot list itself"),
        (lambda d: d["files"].update({"con": {"size": 1, "sha256": "a" * 64}}), "'con' is a reserved file name"),
        (lambda d: d["files"].update({"README.MD": {"size": 1, "sha256": "a" * 64}}), "differs only in case"),
        (lambda d: d["files"].update({"x.": {"size": 1, "sha256": "a" * 64}}), "'x.' is a reserved file name"),
        (lambda d: d["tasks"]["double"].update(part_of="double"), "'double' is part of 'double', which is not another"),
        (lambda d: d["tasks"]["double"].update(part_of="other"), "'double' is part of 'other', which is not another"),
        (lambda d: d["files"].update({"../x": {"size": 1, "sha256": "a" * 64}}), "expected `str` matching regex"),
        (lambda d: d.update(name="../x"), "name: expected `str` matching regex"),
        (lambda d: d.update(version=0), "version: expected `int` >= 1"),
        (lambda d: d.update(version="1"), "version: expected `int`, got `str`"),
        (lambda d: d.update(licence="MIT"), "unknown field 'licence'; did you mean 'license'?"),
        (lambda d: d.update(license="MIT\n"), "license: expected `str` matching regex"),
        (lambda d: d.pop("export"), "missing required field `export`"),
        (
            lambda d: d["tasks"]["double"]["inputs"]["image"].update(kind="picture"),
            "inputs.image: there is no kind",
        ),
        (lambda d: d["tasks"]["double"]["inputs"]["image"].update(kind="imag"), "'imag'; did you mean 'image'?"),
        (
            lambda d: d["tasks"]["double"]["inputs"]["image"].update(dtype="float32"),
            "kind image are uint8, not float32",
        ),
        (lambda d: d["tasks"]["double"]["inputs"]["image"].update(shape=["batch", 4]), "not [batch, 4]"),
        (lambda d: d["tasks"]["double"]["outputs"]["doubled"].update(shape=["batch", 4, 4, 2]), "is 1 or 3, not 2"),
        (lambda d: d.update(needs_zoo="0.99", unheard="of"), "needs zoo 0.99 or newer; this is zoo"),
        (lambda d: d.update(needs_zoo="new"), "needs_zoo: expected `str` matching regex"),
        (lambda d: d["tasks"]["double"]["inputs"]["image"].update(shape=[0]), "tasks.double.inputs.image.shape.0"),
        (lambda d: d.update(summary="x" * 301), "summary: expected `str` of length <= 300"),
    ],
)
def test_manifest_that_is_wrong_is_told_with_its_line(folder, change, says):
    document = msgspec.to_builtins(manifest.read(folder), str_keys=True)
    change(document)
    with pytest.raises(InvalidFileError) as e:
        manifest.parse(strictyaml.dump(document), "model.yaml")
    assert str(e.value).startswith("model.yaml:") and says in str(e.value) and is_clean(e.value)


def test_wrong_files_are_named(folder):
    m = manifest.read(folder)
    data = (folder / "README.md").read_bytes()
    (folder / "README.md").write_bytes(data[:-1] + b"?")
    assert manifest.check_files(folder, m) == [
        f"README.md does not match its SHA-256 {m.files['README.md'].sha256[:12]}…"
    ]
    (folder / "README.md").write_bytes(data + b"?")
    assert manifest.check_files(folder, m) == [f"README.md has {len(data) + 1} bytes; the manifest says {len(data)}"]
    (folder / "README.md").unlink()
    assert manifest.check_files(folder, m) == ["README.md is missing"]
    (folder / "README.md").symlink_to(folder / "double.onnx")
    assert manifest.check_files(folder, m) == ["README.md is not a plain file"]
