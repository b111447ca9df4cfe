"""The plain form of a graph: only what every stack reads, and the same results."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from zoo.formats import registry as registries
from zoo.graph.plain import make_plain
from zoo.graph.walk import graphs_of, nodes_of

ROOT = Path(__file__).parents[2]


def unusual(model: onnx.ModelProto) -> set[str]:
    """What a plain graph does not have."""
    found = set()
    for graph in graphs_of(model.graph):
        for node in graph.node:
            names = {attribute.name for attribute in node.attribute}
            if node.op_type == "Constant":
                found |= names - {"value"}
            if node.op_type in ("Max", "Min", "Sum", "Mean") and len(node.input) == 1:
                found.add(f"{node.op_type} of one")
            if node.op_type == "CastLike" or b"CRD" in [a.s for a in node.attribute]:
                found.add(node.op_type)
            if node.op_type == "Identity" and node.output[0] not in {output.name for output in graph.output}:
                found.add("Identity")
            found |= names & {"allowzero"}
    return found


@pytest.mark.parametrize("registry", [ROOT, ROOT / "research"], ids=["default", "research"])
def test_the_newest_version_of_every_published_model_is_plain(registry):
    models = registries.read(registry, "any").document.models
    for name, model in models.items():
        folder = registry / "models" / name / str(max(model.versions))
        for graph in folder.glob("*.onnx"):
            assert unusual(onnx.load(graph, load_external_data=False)) == set(), graph


def parsed(text: str, opset: int = 18) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> agraph {text}')
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)


GRAPHS = {
    "constants": """(float[N] x) => (float[N] y) {
        a = Constant<value_float = 2.5>()
        b = Constant<value_floats = [3.5]>()
        c = Constant<value_int = 2>()
        d = Constant<value_ints = [-1]>()
        scaled = Mul(x, a)
        moved = Add(scaled, b)
        shaped = Reshape<allowzero = 0>(moved, d)
        steps = CastLike(c, shaped)
        y = Add(shaped, steps)
    }""",
    "one of them": """(float[N] x) => (float[N] y, float[N] z) {
        most = Max(x)
        same = Identity(most)
        y = Sum(same)
        z = Neg(same)
    }""",
    "depth to space": """(float[N, 4, H, W] x) => (float[N, 1, A, B] y) {
        y = DepthToSpace<blocksize = 2, mode = "CRD">(x)
    }""",
    "depth to space, many channels": """(float[N, 12, H, W] x) => (float[N, 3, A, B] y) {
        twice = Add(x, x)
        y = DepthToSpace<blocksize = 2, mode = "CRD">(twice)
    }""",
    "a loop": """(float[N] x) => (float[N] y) {
        times = Constant<value_int = 3>()
        go = Constant<value = bool {1}>()
        y = Loop(times, go, x) <body = body (int64 i, bool more, float[N] v) => (bool still, float[N] w) {
            still = Identity(more)
            number = CastLike(i, v)
            more_of_it = Add(v, number)
            w = Max(more_of_it)
        }>
    }""",
    "an unused type": """(int64[N] x) => (float[N] y) {
        b = Cast<to = 1>(x)
        n = Shape(b)
        m = CastLike(n, b)
        y = Add(b, m)
    }""",
}


@pytest.mark.parametrize("text", GRAPHS.values(), ids=GRAPHS)
def test_a_plain_graph_computes_the_same(text):
    model = parsed(text)
    dims = [d.dim_value or 3 for d in model.graph.input[0].type.tensor_type.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    x = np.random.default_rng(0).normal(0, 9, dims).astype(dtype)
    before = run(model, x=x)
    assert unusual(model)
    make_plain(model)
    assert unusual(model) == set()
    for one, other in zip(before, run(model, x=x), strict=True):
        np.testing.assert_array_equal(one, other)


def test_fixed_sizes_are_written_as_numbers():
    model = parsed(GRAPHS["depth to space"].replace("H, W", "5, 6"))
    make_plain(model)
    assert [node.op_type for node in nodes_of(model.graph)] == 2 * ["Constant"] + ["Reshape", "Transpose", "Reshape"]


def test_an_empty_axis_keeps_its_zero():
    model = parsed("""(float[0, 3] x) => (float[3, 0] y) {
        shape = Constant<value_ints = [3, 0]>()
        y = Reshape<allowzero = 1>(x, shape)
    }""")
    make_plain(model)
    assert unusual(model) == {"allowzero"}
    assert run(model, x=np.zeros((0, 3), np.float32))[0].shape == (3, 0)


def test_a_zero_among_computed_sizes_stays_too():
    model = parsed("""(float[N, 0] x) => (float[A, B] y) {
        n = Shape<start = 0, end = 1>(x)
        none = Constant<value_ints = [0]>()
        shape = Concat<axis = 0>(none, n)
        y = Reshape<allowzero = 1>(x, shape)
    }""")
    make_plain(model)
    assert run(model, x=np.zeros((4, 0), np.float32))[0].shape == (0, 4)


def test_a_zero_of_the_graph_around_a_branch_stays():
    model = parsed("""(float[0, 3] x, bool b) => (float[A, B] y) {
        shape = Constant<value_ints = [3, 0]>()
        y = If(b) <
            then_branch = yes () => (float[A, B] one) { one = Reshape<allowzero = 1>(x, shape) },
            else_branch = no () => (float[A, B] two) { two = Neg(x) }
        >
    }""")
    make_plain(model)
    assert unusual(model) == {"allowzero"}
    assert run(model, x=np.zeros((0, 3), np.float32), b=np.array(True))[0].shape == (3, 0)


def test_a_shape_that_is_an_input_may_have_a_zero():
    model = parsed("(float[0, 3] x, int64[2] shape) => (float[A, B] y) { y = Reshape<allowzero = 1>(x, shape) }")
    make_plain(model)
    assert run(model, x=np.zeros((0, 3), np.float32), shape=np.array([3, 0]))[0].shape == (3, 0)


def test_depth_to_space_stays_where_a_shape_cannot_be_sliced():
    text = """(float[N, 4, H, W] x) => (float[N, 1, A, B] y) { y = DepthToSpace<blocksize = 2, mode = "CRD">(x) }"""
    model, x = parsed(text, opset=14), np.arange(16, dtype=np.float32).reshape(1, 4, 2, 2)
    before = run(model, x=x)
    make_plain(model)
    assert unusual(model) == {"DepthToSpace"}
    np.testing.assert_array_equal(run(model, x=x), before)


def test_a_type_that_is_not_known_stays():
    """The type of a sequence's element is in no schema."""
    model = parsed("""(float[N] x) => (float[N] y) {
        all = SequenceConstruct(x)
        first = Constant<value_int = 0>()
        one = SequenceAt(all, first)
        y = CastLike(x, one)
    }""")
    make_plain(model)
    assert unusual(model) == {"CastLike"}
    np.testing.assert_array_equal(run(model, x=np.ones(2, np.float32))[0], [1, 1])


def test_it_does_not_need_the_weights():
    model = parsed("(float[N] x) => (float[N] y) { w = Identity(x) y = CastLike(w, x) }")
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="nowhere.safetensors")
    model.graph.initializer.append(weight)
    make_plain(model)
    assert [node.op_type for node in model.graph.node] == ["Identity"]
