"""Folding and lower opsets: less in the graph, the same results, and what must not be folded is not."""

import numpy as np
import onnxruntime
import pytest

from tests.graph.test_plain import parsed, run
from zoo.errors import ExportError
from zoo.ship import folding
from zoo.ship.folding import fold
from zoo.ship.opset import in_opset


def folded(text, **inputs):
    """The operators left, and the shapes known; the results are the same."""
    model = parsed(text)
    before = run(model, **inputs)
    shapes = fold(model, lambda part: run_open(part, inputs))
    for one, other in zip(before, run(model, **inputs), strict=True):
        np.testing.assert_array_equal(one, other)
    return [node.op_type for node in model.graph.node], shapes


def run_open(model, inputs):
    """Outputs by name; their types, where not stated, are ONNX Runtime's to infer."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {entry.name: inputs[entry.name] for entry in session.get_inputs()})
    return dict(zip([output.name for output in model.graph.output], outputs, strict=True))


X = np.arange(12, dtype=np.float32).reshape(1, 3, 4)


def test_what_follows_from_fixed_sizes_is_folded():
    text = """(float[1, 3, 4] x) => (float[1, A, 4] y, int64[3] size) {
        size = Shape(x)
        one = Constant<value_ints = [1]>()
        two = Constant<value_ints = [2]>()
        zero = Constant<value_ints = [0]>()
        less = Sub(size, one)
        rows = Slice(less, one, two, zero)
        y = Slice(x, zero, rows, one)
    }"""
    operators, shapes = folded(text, x=X)
    assert operators == ["Constant", "Constant", "Constant", "Slice"]  # size, an output, and the constants of Slice
    assert shapes == {"y": (1, 2, 4), "size": (3,)}


def test_sizes_that_depend_on_values_are_left():
    text = """(float[3] x) => (int64[1, N] places, float[M] y, int64[1] count) {
        yes = Cast<to = 9>(x)
        places = NonZero(yes)
        row = Constant<value_ints = [0]>()
        first = Squeeze(places, row)
        y = Gather(x, first)
        count = Shape(y)
    }"""
    operators, shapes = folded(text, x=np.array([1, 0, 2], np.float32))
    assert operators == ["Cast", "NonZero", "Constant", "Squeeze", "Gather", "Shape"] and shapes == {}


def test_a_reshape_to_computed_sizes_is_left():
    text = """(float[2, 3] x, int64[2] size) => (float[A, B] y, int64[2] back) {
        y = Reshape(x, size)
        back = Shape(y)
    }"""
    assert folded(text, x=X[0, :2, :3], size=np.array([3, 2])) == (["Reshape", "Shape"], {})


def test_free_sizes_are_left():
    text = "(float[N, 3] x) => (int64[2] size) { size = Shape(x) }"
    assert folded(text, x=X[0, :, :3]) == (["Shape"], {})


def test_a_loop_reads_what_was_folded():
    text = """(float[2] x) => (float[2] y) {
        times = Size(x)
        go = Constant<value = bool {1}>()
        more = Shape(x)
        step = Cast<to = 1>(more)
        y = Loop(times, go, x) <body = body (int64 i, bool c, float[2] v) => (bool d, float[2] w) {
            d = Identity(c)
            w = Add(v, step)
        }>
    }"""
    assert folded(text, x=X[0, 0, :2])[0] == ["Constant", "Loop"]


def test_a_large_result_stays_a_computation(monkeypatch):
    text = """(float[2, 3] x) => (float[2, 3] y) {
        size = Shape(x)
        zeros = ConstantOfShape(size)
        ones = Exp(zeros)
        y = Add(x, ones)
    }"""
    assert folded(text, x=X[0, :2, :3])[0] == ["Add"]
    monkeypatch.setattr(folding, "MAX_ELEMENTS", 5)
    assert folded(text, x=X[0, :2, :3])[0] == ["ConstantOfShape", "Exp", "Add"]


# --- Opset 17 ---------------------------------------------------------------------------------------------------------

LOWERED = {
    "reductions": """(float[2, 3, 4] x) => (float[2, 1, 1] y) {
        axes = Constant<value = int64[2] {1, 2}>()
        most = ReduceMax(x, axes)
        all = ReduceMean<keepdims = 0>(x)
        y = Mul(most, all)
    }""",
    "resize": """(float[2, 3, 4] x) => (float[2, 6, 8] y) {
        scales = Constant<value = float[3] {1.0, 2.0, 2.0}>()
        y = Resize<mode = "nearest", antialias = 0, keep_aspect_ratio_policy = "stretch">(x, , scales)
    }""",
    "split": """(float[2, 3, 4] x) => (float[2, 3, 2] y) { y, z = Split<axis = 2, num_outputs = 2>(x) }""",
    "pad": """(float[2, 3, 4] x) => (float[2, 3, 6] y) {
        pads = Constant<value = int64[6] {0, 0, 1, 0, 0, 1}>()
        y = Pad(x, pads)
    }""",
}


@pytest.mark.parametrize("text", LOWERED.values(), ids=LOWERED)
def test_opset_17_computes_the_same(text):
    model = parsed(text)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    lower = in_opset(model, 17)
    assert [o.version for o in lower.opset_import] == [17] and [o.version for o in model.opset_import] == [18]
    for one, other in zip(run(model, x=x), run(lower, x=x), strict=True):
        np.testing.assert_array_equal(one, other)


REFUSED = {
    "(int64[3] x) => (int64[3] y) { y = BitwiseXor(x, x) }": "it uses BitwiseXor, which opset 17 does not have",
    "(float[3] x, int64[1] axes) => (float[1] y) { y = ReduceMax(x, axes) }": "it uses ReduceMax",
    """(float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y) {
        scales = Constant<value = float[4] {1.0, 1.0, 0.5, 0.5}>()
        y = Resize<mode = "linear", antialias = 1>(x, , scales)
    }""": "its Resize has antialias, which opset 17 does not have",
}


@pytest.mark.parametrize("text, says", REFUSED.items(), ids=["operator", "computed axes", "attribute"])
def test_what_has_no_form_in_opset_17_is_refused(text, says):
    with pytest.raises(ExportError, match=says):
        in_opset(parsed(text), 17)


def test_a_graph_that_is_low_enough_stays():
    model = parsed("(float[3] x) => (float[3] y) { y = Neg(x) }", opset=17)
    assert in_opset(model, 18) == model == in_opset(model, 17)
    with pytest.raises(ExportError, match="opset 18 can be written in opset 17 at the lowest"):
        in_opset(parsed("(float[3] x) => (float[3] y) { y = Neg(x) }"), 16)
