"""The graphs of strangers: what passes, and what is refused before a session opens."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests import tiny
from zoo.formats import manifest as manifests
from zoo.graph import check as checks
from zoo.graph import scan
from zoo.graph.check import check
from zoo.graph.walk import nodes_of
from zoo.hookspecs import Port

GRAPH = "double.onnx"


@pytest.fixture
def bundle(tmp_path) -> Path:
    return tiny.bundle(tmp_path / "bundle")


def findings(folder: Path) -> list[str]:
    return check(folder, manifests.read(folder))


def change(folder: Path, edit: Callable[[onnx.ModelProto], None]) -> list[str]:
    """The findings after an edit of the graph."""
    model = onnx.load(folder / GRAPH, load_external_data=False)
    edit(model)
    (folder / GRAPH).write_bytes(model.SerializeToString())
    return findings(folder)


def scale(model: onnx.ModelProto) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == "scale")


def external(model: onnx.ModelProto, **fields: object) -> None:
    """Sets fields of the weight's external data; None removes one."""
    kept = {e.key: e.value for e in scale(model).external_data} | fields
    del scale(model).external_data[:]
    for key, value in kept.items():
        if value is not None:
            scale(model).external_data.add(key=key, value=str(value))


def place(model: onnx.ModelProto) -> tuple[int, int]:
    fields = {e.key: e.value for e in scale(model).external_data}
    return int(fields["offset"]), int(fields["length"])


def test_a_right_bundle_has_no_findings(bundle):
    assert findings(bundle) == []


NO_FILE_OF_THE_BUNDLE = "which is not a safetensors file of the bundle"
LOCATIONS = {
    "parent": "../model.safetensors",
    "nested parent": "x/../../model.safetensors",
    "here": "./model.safetensors",
    "absolute": "/etc/passwd",
    "windows parent": "..\\model.safetensors",
    "windows absolute": "C:\\model.safetensors",
    "url": "file:///etc/passwd",
    "other file": "secret.safetensors",
    "the graph itself": GRAPH,
    "the manifest": "model.yaml",
    "the card": "README.md",
    "empty": "",
    "the folder": ".",
    "NUL": "model.safetensors\0",
    "NUL in front": "\0model.safetensors",
    "white space": " model.safetensors",
    "other case": "MODEL.safetensors",
    "escape codes": "\x1b[2J",
}


@pytest.mark.parametrize("location", LOCATIONS.values(), ids=LOCATIONS.keys())
def test_external_data_outside_the_listed_safetensors(bundle, location):
    (bundle / "secret.safetensors").write_bytes((bundle / "model.safetensors").read_bytes())
    [finding] = change(bundle, lambda m: external(m, location=location))
    assert finding.startswith("double.onnx: the weight 'scale' points to") and NO_FILE_OF_THE_BUNDLE in finding
    assert "\x1b" not in finding and "\0" not in finding


NOT_A_TENSOR = "does not point to a tensor in model.safetensors with its element type and shape"
PLACES = {
    "the header": {"offset": 0},
    "one byte on": lambda o, n: {"offset": o + 1},
    "before the file": {"offset": -4},
    "behind the file": {"offset": 1 << 40},
    "overflowing": {"offset": (1 << 64) + 200},
    "huge number": {"offset": "9" * 5000},
    "no number": {"offset": "0x10"},
    "other digits": {"offset": "\u0662\u0663"},
    "signed": lambda o, n: {"offset": f"+{o}"},
    "empty number": {"length": ""},
    "too long": lambda o, n: {"length": n + 4},
    "too short": lambda o, n: {"length": n - 1},
    "no bytes": {"length": 0},
}


@pytest.mark.parametrize("fields", PLACES.values(), ids=PLACES.keys())
def test_external_data_that_is_no_tensor_of_its_file(bundle, fields):
    def edit(model):
        external(model, **(fields(*place(model)) if callable(fields) else fields))

    [finding] = change(bundle, edit)
    assert NOT_A_TENSOR in finding


def test_another_tensor_or_type_or_shape(bundle, tmp_path):
    seed = dict(zip(("offset", "length"), tiny.tensor_range(bundle / "model.safetensors", "ballast"), strict=True))
    assert NOT_A_TENSOR in change(bundle, lambda m: external(m, **seed))[0]
    other = tiny.bundle(tmp_path / "type")
    assert NOT_A_TENSOR in change(other, lambda m: setattr(scale(m), "data_type", TensorProto.INT32))[0]
    other = tiny.bundle(tmp_path / "shape")
    assert NOT_A_TENSOR in change(other, lambda m: scale(m).dims.append(1))[0]
    other = tiny.bundle(tmp_path / "negative")
    assert NOT_A_TENSOR in change(other, lambda m: scale(m).dims.extend([-1, -1]))[0]


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: external(m, offset=None),
        lambda m: external(m, length=None),
        lambda m: external(m, location=None),
        lambda m: external(m, checksum="0"),
        lambda m: scale(m).external_data.add(key="location", value="/etc/passwd"),
        lambda m: setattr(scale(m), "data_location", TensorProto.DEFAULT),
    ],
    ids=["no offset", "no length", "no location", "more", "location twice", "not said to be external"],
)
def test_external_data_with_other_fields(bundle, edit):
    [finding] = change(bundle, edit)
    assert "needs location, offset and length, each once, and nothing else" in finding


def test_data_inside_and_outside(bundle):
    [finding] = change(bundle, lambda m: setattr(scale(m), "raw_data", b"1234"))
    assert "also has data inside the graph" in finding


def test_external_data_in_an_attribute(bundle):
    def edit(model):
        tensor = TensorProto()
        tensor.CopyFrom(scale(model))
        model.graph.node.append(helper.make_node("Constant", [], ["leak"], value=tensor))

    [finding] = change(bundle, edit)
    assert "has external data in the attribute 'value'" in finding


@pytest.mark.parametrize("name", ["model.safetensors", GRAPH])
def test_links_are_no_files_of_a_bundle(bundle, tmp_path, name):
    target = (bundle / name).rename(tmp_path / name)
    (bundle / name).symlink_to(target)
    assert any("link" in f or "not a plain file" in f for f in findings(bundle))


def test_hard_links_are(bundle, tmp_path):
    for name in ("model.safetensors", GRAPH):
        os.link(bundle / name, tmp_path / name)
    assert findings(bundle) == []


def test_broken_weights(bundle):
    (bundle / "model.safetensors").write_bytes(b"PK\3\4 and the rest of a pickle")
    assert "is not a safetensors file, but a ZIP archive" in findings(bundle)[0]


def body_with(node: onnx.NodeProto) -> onnx.NodeProto:
    """A Loop of one turn around a node."""
    body = helper.make_graph(
        [node, helper.make_node("Identity", ["going"], ["goes_on"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("goes_on", TensorProto.BOOL, [])],
    )
    return helper.make_node("Loop", ["one", ""], [], body=body)


@pytest.mark.parametrize("operator", sorted(checks.RANDOM_OPERATORS))
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_random_operators_at_any_depth(bundle, operator, depth):
    node = helper.make_node(operator, ["levels"], ["noise"])
    for _ in range(depth):
        node = body_with(node)
    [finding] = change(bundle, lambda m: m.graph.node.append(node))
    assert f"uses {operator}; noise must come from the seed" in finding


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml", "ai.onnx.preview.training", "\x1b[2J"])
def test_foreign_domains(bundle, domain):
    node = helper.make_node("Gelu", ["levels"], ["x"], domain=domain)
    [finding] = change(bundle, lambda m: m.graph.node.append(body_with(node)))
    assert "only ONNX's own domain is allowed" in finding and "\x1b" not in finding


def test_a_foreign_opset_import(bundle):
    [finding] = change(bundle, lambda m: m.opset_import.add(domain="com.microsoft", version=1))
    assert "uses the foreign operator domain 'com.microsoft'" in finding


def test_local_functions_and_training(bundle):
    def edit(model):
        function = helper.make_function(
            "", "Clip", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], list(model.opset_import)
        )
        model.functions.append(function)
        model.training_info.add()

    assert [f.split(": ")[1].split(";")[0] for f in change(bundle, edit)] == [
        "has 1 local functions",
        "has training information",
    ]


def test_sparse_tensors(bundle):
    def edit(model):
        model.graph.sparse_initializer.add().values.CopyFrom(scale(model))
        node = helper.make_node("Constant", [], ["s"])
        node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.dims.append(1)
        model.graph.node.append(node)

    assert change(bundle, edit) == ["double.onnx: has sparse tensors; they are not allowed"]


def test_weights_in_bodies_are_checked_too(bundle):
    def edit(model):
        tensor = TensorProto()
        tensor.CopyFrom(scale(model))
        tensor.name = "inner"
        tensor.external_data[0].value = "/etc/passwd"
        loop = body_with(helper.make_node("Identity", ["inner"], ["x"]))
        loop.attribute[0].g.initializer.append(tensor)
        model.graph.node.append(loop)

    [finding] = change(bundle, edit)
    assert "the weight 'inner'" in finding and NO_FILE_OF_THE_BUNDLE in finding


def test_a_weight_that_a_caller_could_replace(bundle):
    def edit(model):
        model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1]))

    assert "lets a caller replace the weight 'scale'" in change(bundle, edit)[0]


def test_too_many_nodes(bundle, monkeypatch):
    monkeypatch.setattr(checks, "MAX_NODES", 3)
    assert findings(bundle) == ["double.onnx: has more than 3 nodes"]


def test_nodes_of_bodies_count(bundle, monkeypatch):
    monkeypatch.setattr(checks, "MAX_NODES", 6)
    node = helper.make_node("Identity", ["levels"], ["x"])
    assert change(bundle, lambda m: m.graph.node.append(body_with(node))) == ["double.onnx: has more than 6 nodes"]


def test_too_deep(bundle, tmp_path, monkeypatch):
    node = helper.make_node("Identity", ["levels"], ["x"])
    monkeypatch.setattr(checks, "MAX_DEPTH", 3)  # near the real limit protobuf refuses to make such a graph
    assert change(bundle, lambda m: m.graph.node.append(body_with(body_with(node)))) == []
    other = tiny.bundle(tmp_path / "other")
    [finding] = change(other, lambda m: m.graph.node.append(body_with(body_with(body_with(node)))))
    assert finding == "double.onnx: nests graphs more than 3 deep"


@pytest.mark.parametrize("operator", ["Max", "Min", "Sum", "Mean", "Mul", "Concat"])
def test_a_required_input_that_is_left_out(bundle, operator):
    """ONNX Runtime 1.31 follows a null pointer in the first four; their inputs are variadic, none is optional."""

    def edit(model):
        model.graph.node[1].op_type = operator
        model.graph.node[1].input[:] = ["levels", ""]

    assert change(bundle, edit) == [f"double.onnx: leaves out input 2 of {operator}, which is not optional"]


def test_an_optional_input_may_be_left_out(bundle):
    """tests.tiny's own graph has Clip(product, "", white)."""
    assert findings(bundle) == []

    def edit(model):
        model.graph.node[2].input[:] = ["", "", "white"]

    assert change(bundle, edit) == ["double.onnx: leaves out input 1 of Clip, which is not optional"]


def test_what_may_be_left_out_without_a_look_at_the_schemas_is_what_they_say():
    optional, newest = onnx.defs.OpSchema.FormalParameterOption.Optional, onnx.defs.onnx_opset_version()
    for operator, numbers in checks._OPTIONAL.items():
        for opset in range(checks._OPTIONAL_SINCE, newest + 1):
            inputs = onnx.defs.get_schema(operator, opset, "").inputs
            there = {number for number in numbers if number < len(inputs)}  # Pad has one more since opset 18
            assert there and all(inputs[number].option == optional for number in there), (operator, opset)


def test_an_old_operator_is_looked_up(bundle):
    """Resize required its second input until opset 13."""

    def edit(model, opset):
        model.opset_import[0].version = opset
        model.graph.node.add(op_type="Resize", input=["image", "", "", ""], output=["r"])

    assert change(bundle, lambda model: edit(model, 11)) == [
        f"double.onnx: leaves out input {number} of Resize, which is not optional" for number in (2, 3)
    ]
    assert findings(bundle) and change(bundle, lambda model: setattr(model.opset_import[0], "version", 18)) == []


def test_the_check_does_not_import_onnx_or_numpy(bundle):
    """Their import takes longer than the check."""
    code = f"""
import sys
from pathlib import Path
from zoo.formats import manifest
from zoo.graph.described import from_json, to_json
described = from_json(to_json(manifest.read(Path({str(bundle)!r}))))
from zoo.graph.check import check
assert check(Path({str(bundle)!r}), described) == []
assert not sys.modules.keys() & {{"onnx", "numpy"}}
import onnx
from zoo.graph.messages import ModelProto
assert ModelProto is onnx.ModelProto
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_required_input_of_a_body(bundle):
    def edit(model):
        body = helper.make_graph([helper.make_node("Max", ["levels", "", "levels"], ["more"])], "body", [], [])
        model.graph.node.append(helper.make_node("If", ["c"], ["r"], then_branch=body, else_branch=body))

    assert change(bundle, edit) == ["double.onnx: leaves out input 2 of Max, which is not optional"]


def bomb(*parts: bytes, number: int = 7) -> bytes:
    """A message with one field that holds these bytes."""
    data, length = b"".join(parts), bytearray()
    rest = len(data)
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    return bytes([number << 3 | 2]) + bytes([*length, rest]) + data


MANY = 3_000_000
BOMBS = {
    "nodes": (bomb(b"\x0a\0" * MANY), "has more than 100,000 nodes"),
    "inputs of a node": (bomb(bomb(b"\x0a\0" * MANY, number=1)), "has more than 2,000,000 fields"),
    "attributes of a node": (bomb(bomb(b"\x2a\0" * MANY, number=1)), "has more than 2,000,000 fields"),
    "shapes of an initializer": (bomb(bomb(b"\x08\1" * MANY, number=5)), "has more than 2,000,000 fields"),
    "nodes of a body": (
        bomb(bomb(bomb(bomb(b"\x0a\0" * MANY, number=6), number=5), number=1)),
        "has more than 100,000 nodes",
    ),
    "opsets": (b"\x42\0" * MANY, "has more than 2,000,000 fields"),
}

CHECK = r"""
import re, sys
from pathlib import Path
from zoo.formats import manifest
from zoo.graph.check import check
folder = Path(sys.argv[1])
found = check(folder, manifest.read(folder))
print(found, int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) >> 10)
"""


@pytest.mark.slow
@pytest.mark.parametrize("data, finding", BOMBS.values(), ids=BOMBS.keys())
def test_a_small_file_that_is_large_in_memory_is_not_parsed(bundle, data, finding):
    """30 million empty nodes, 60 MB, took 4.5 GB."""
    (bundle / GRAPH).write_bytes(data)
    done = subprocess.run([sys.executable, "-c", CHECK, bundle], capture_output=True, text=True)
    found, _, megabytes = done.stdout.rpartition(" ")
    assert found == f"['double.onnx: {finding}']" and int(megabytes) < 200, done.stderr


def test_the_process_of_the_check_has_a_memory_limit(bundle):
    code = "import zoo.store.check_apart as c, sys; c.LIMIT_BYTES = 2 << 20; c._main()"
    done = subprocess.run([sys.executable, "-c", code, bundle], capture_output=True, text=True)
    assert done.returncode != 0  # its imports alone need more


def test_the_fields_are_those_of_the_real_graphs():
    """A walk over every byte of a published graph finds its nodes, whatever their depth."""
    path = next((Path(__file__).parents[2] / "models" / "ddpm-fashion").glob("*/generate.onnx"))
    data, model = path.read_bytes(), onnx.load(path, load_external_data=False)
    count = len(list(nodes_of(model.graph)))
    assert scan.excess(data, nodes=count, depth=32) is None and len(data) < scan.SMALL_BYTES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "SMALL_BYTES", 0)
        assert scan.excess(data, nodes=count, depth=32) is None
        assert scan.excess(data, nodes=count - 1, depth=32) == f"more than {count - 1:,} nodes"
        assert scan.excess(data, nodes=count, depth=1) == "graphs nested more than 1 deep"


def test_a_graph_file_that_is_too_large(bundle):
    with (bundle / GRAPH).open("r+b") as f:
        f.truncate(checks.MAX_GRAPH_BYTES + 1)
    assert "double.onnx: has 67,108,865 bytes" in findings(bundle)[0]


PORTS = {
    "name": (lambda v: setattr(v, "name", "picture"), "has the inputs picture; the manifest says image"),
    "type": (lambda v: setattr(v.type.tensor_type, "elem_type", TensorProto.FLOAT), "has the element type 1"),
    "rank": (lambda v: v.type.tensor_type.shape.dim.add(), "[batch, height, width, 1, ]"),
    "no shape": (lambda v: v.type.tensor_type.ClearField("shape"), "has the shape of any rank"),
    "frozen batch": (lambda v: setattr(v.type.tensor_type.shape.dim[0], "dim_value", 1), "[1, height, width, 1]"),
    "channels": (lambda v: setattr(v.type.tensor_type.shape.dim[3], "dim_value", 3), "[batch, height, width, 3]"),
    "no tensor": (lambda v: v.type.sequence_type.elem_type.tensor_type.SetInParent(), "has the element type 0"),
}


@pytest.mark.parametrize("edit, reason", PORTS.values(), ids=PORTS.keys())
def test_ports_that_differ_from_the_manifest(bundle, edit, reason):
    found = change(bundle, lambda m: edit(m.graph.input[0]))
    assert any(reason in f for f in found)


def test_more_and_fewer_ports(bundle, tmp_path):
    assert (
        "has the outputs doubled, levels; the manifest says doubled"
        in change(bundle, lambda m: m.graph.output.add(name="levels"))[0]
    )
    other = tiny.bundle(tmp_path / "other")
    assert "has the inputs none" in change(other, lambda m: m.graph.ClearField("input"))[0]


def test_every_task_is_checked(tmp_path):
    folder = tiny.bundle(tmp_path / "two", tasks=("double", "twice"))
    (folder / "twice.onnx").unlink()
    assert findings(folder) == ["twice.onnx: is missing, or not a plain file"]


def test_a_label_port_is_int64(bundle):
    import msgspec

    manifest = manifests.read(bundle)
    task = manifest.tasks["double"]
    label = msgspec.structs.replace(task, inputs={"image": Port(kind="label", dtype="int64", shape=("batch",))})
    wrong = check(bundle, msgspec.structs.replace(manifest, tasks={"double": label}))
    assert [f.split("; ")[1] for f in wrong] == ["the manifest says int64", "the manifest says [batch]"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_garbage_gives_findings_never_an_exception(bundle, data):
    original = bytearray((bundle / GRAPH).read_bytes())
    manifest = manifests.read(bundle)
    try:
        if data.draw(st.booleans()):
            changed = bytearray(data.draw(st.binary(max_size=200)))
        else:
            changed = bytearray(original)
            for _ in range(data.draw(st.integers(1, 5))):
                changed[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
        (bundle / GRAPH).write_bytes(changed)
        assert all("\n" not in f and f.isprintable() for f in check(bundle, manifest))
    finally:
        (bundle / GRAPH).write_bytes(original)


@pytest.mark.parametrize("name", [b"model.safetensors", b"scale", b"offset", b"image", b"Clip", b"batch"])
def test_names_that_are_no_utf8(bundle, name):
    content = (bundle / GRAPH).read_bytes()
    (bundle / GRAPH).write_bytes(content.replace(name, b"\xff\xfe" + name[2:]))
    assert all(f.isprintable() for f in findings(bundle))
