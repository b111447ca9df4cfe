"""Golden inputs: drawn in range, fed from other tasks, clear of ties, and the same each time."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.build import golden
from zoo.build.golden import PLANS, TRACE, Plan, draw_cases, draw_inputs
from zoo.errors import UsageError
from zoo.formats.golden import Case
from zoo.hookspecs import Golden, Port, Task, Tasks, Tolerance
from zoo.media.drawings import drawing
from zoo.ports.kinds import kind_of

IMAGE = Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 1), minimum_size=8)
TOKENS = Port(kind="tokens", dtype="int64", shape=("batch", "rows", "columns"), minimum=0, maximum=15)
SIZE = Port(kind="size", dtype="int64", shape=(2,), minimum=1)
SEED = Port(kind="seed", dtype="int64", shape=("batch",))


def task(inputs: dict[str, Port], outputs: dict[str, Port]) -> Task:
    return Task(summary="A task", inputs=inputs, outputs=outputs)


DECODE = task({"tokens": TOKENS, "size": SIZE}, {"image": IMAGE})
ENCODE = task({"image": IMAGE}, {"tokens": TOKENS, "size": SIZE})


def encode_and_decode(name, inputs):
    """A codec of factor 4 in three lines."""
    if name == "decode":
        return {"image": np.repeat(np.repeat(inputs["tokens"], 4, 1), 4, 2)[..., None].astype(np.uint8)}
    image = inputs["image"]
    return {"tokens": image[:, ::4, ::4, 0].astype(np.int64) // 16, "size": np.array(image.shape[1:3])}


def no_margins(name, inputs):
    return None


def cases(tasks: dict[str, Task], call=encode_and_decode, margins=no_margins):
    return draw_cases(Tasks(tasks=tasks, default=next(iter(tasks)), tolerance=Tolerance()), call, margins)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 99))
def test_pictures_of_any_size(height, width, channels, seed):
    image = drawing(height, width, channels, np.random.default_rng(seed))
    assert (image.dtype, image.shape) == (np.uint8, (height, width, channels))
    assert np.array_equal(image, drawing(height, width, channels, np.random.default_rng(seed)))


def test_pictures_are_not_flat_and_not_alike():
    rng = np.random.default_rng(0)
    pictures = [drawing(28, 28, 3, rng) for _ in range(20)]
    assert all(p.std() > 5 for p in pictures)
    assert len({p.tobytes() for p in pictures}) == 20


@pytest.mark.parametrize("order", [("encode", "decode"), ("decode", "encode")])
def test_decode_gets_what_encode_gave_whatever_the_order(order):
    tasks = {"encode": ENCODE, "decode": DECODE}
    drawn = cases({name: tasks[name] for name in order})
    assert tuple(drawn) == order
    for encode, decode in zip(drawn["encode"], drawn["decode"], strict=True):
        assert decode.inputs["tokens"] is encode.outputs["tokens"] and decode.inputs["size"] is encode.outputs["size"]


def test_decode_alone_gets_values_in_range():
    for case in cases({"decode": DECODE})["decode"]:
        assert list(case.inputs) == ["tokens", "size"]
        assert case.inputs["tokens"].min() >= 0 and case.inputs["tokens"].max() <= 15
        assert case.inputs["size"].shape == (2,) and case.inputs["size"].min() >= 1


def test_tasks_that_feed_each_other_still_get_inputs():
    there = task({"tokens": TOKENS}, {"size": SIZE})
    back = task({"size": SIZE}, {"tokens": TOKENS})
    both = cases({"there": there, "back": back}, lambda name, inputs: {"size": np.array([8, 8]), "tokens": None})
    assert both["back"][0].inputs["size"] is both["there"][0].outputs["size"]


def test_batches_and_sizes_vary_and_differ_from_the_traced():
    drawn = cases({"encode": ENCODE})["encode"]
    shapes = [case.inputs["image"].shape for case in drawn]
    assert {shape[0] for shape in shapes} >= {1, 3, 5} and TRACE.batch not in {1, 3, 5}
    assert (8, 8) in {shape[1:3] for shape in shapes}
    assert any(shape[1] % 2 and shape[2] % 2 for shape in shapes)
    traced = draw_inputs(ENCODE, TRACE, np.random.default_rng(0))["image"].shape
    assert traced[1:3] not in {shape[1:3] for shape in shapes}
    assert len(set(traced)) == len(traced)  # no two sizes alike, which a tracer could take for one


def test_fixed_sizes_are_kept():
    fixed = Port(kind="image", dtype="uint8", shape=("batch", 28, 28, 3))
    for case in cases({"try": task({"image": fixed}, {"x": fixed})}, lambda n, i: {"x": i["image"]})["try"]:
        assert case.inputs["image"].shape[1:] == (28, 28, 3)


def test_pictures_stay_under_the_ports_limit():
    import msgspec

    small = msgspec.structs.replace(IMAGE, maximum_pixels=100)
    for plan in PLANS:
        assert draw_inputs(task({"image": small}, {}), plan, np.random.default_rng(0))["image"].shape[1:3] == (8, 8)


def test_a_mask_has_its_pictures_size():
    mask = Port(kind="mask", dtype="uint8", shape=("batch", "height", "width", 1))
    drawn = draw_inputs(task({"mask": mask, "image": IMAGE}, {}), Plan(2, 9, 30), np.random.default_rng(0))
    assert drawn["mask"].shape == drawn["image"].shape
    assert set(np.unique(drawn["mask"])) == {0, 255}


RANGES = [
    (Port(kind="seed", dtype="int64", shape=("batch",)), 0, 2**53 - 1),
    (Port(kind="label", dtype="int64", shape=("batch",), classes=("a", "b", "c")), 0, 2),
    (Port(kind="label", dtype="int64", shape=("batch",), minimum=-1, maximum=9), -1, 9),
    (Port(kind="count", dtype="int64", shape=(), default=50, minimum=1, maximum=1000), 1, 5),
    (Port(kind="count", dtype="int64", shape=(), minimum=3, maximum=3), 3, 3),
    (Port(kind="scalar", dtype="float32", shape=("batch",), minimum=-2, maximum=1.5), -2, 1.5),
    (Port(kind="scalar", dtype="float32", shape=("batch",), minimum=0), 0, np.inf),
    (Port(kind="tensor", dtype="float32", shape=("batch", 4)), -np.inf, np.inf),
]


@pytest.mark.parametrize("port, low, high", RANGES)
@given(seed=st.integers(0, 2**32))
def test_values_are_in_range_and_typed(port, low, high, seed):
    shape = [3 if dim == "batch" else dim for dim in port.shape]
    array = kind_of(port).draw_case(port, shape, np.random.default_rng(seed))
    assert (array.dtype, list(array.shape)) == (np.dtype(port.dtype), shape)
    assert (array >= low).all() and (array <= high).all()


def test_only_what_stands_near_a_tie_is_drawn_anew():
    seen = []

    def margins(name, inputs):
        seen.append(inputs["image"].copy())
        gap = np.ones((len(inputs["image"]), 2, 2), np.float32)
        if len(seen) == 2 and len(gap) == 3:
            gap[1, 0, 0] = 2e-3  # twice the usual margin: not more than it
        return gap

    cases({"encode": ENCODE}, margins=margins)
    same = [np.array_equal(a, b) for a, b in zip(seen[1], seen[2], strict=True)]
    assert same == [True, False, True] and len(seen) == len(PLANS) + 1


def test_pictures_with_too_many_tokens_are_drawn_smaller(monkeypatch):
    monkeypatch.setattr(golden, "MAX_DRAWS", 5)

    def margins(name, inputs):
        batch, height, width, _ = inputs["image"].shape
        return np.full((batch, height, width), 0.0 if height * width > 200 else 1.0)

    sizes = [case.inputs["image"].shape[1:3] for case in cases({"encode": ENCODE}, margins=margins)["encode"]]
    assert sizes == [(8, 8), (14, 14), (10, 8), (8, 15)]


def test_where_all_is_near_a_tie_the_cases_tell_how_near(monkeypatch):
    monkeypatch.setattr(golden, "MAX_DRAWS", 5)

    def margins(name, inputs):  # of the last picture, one token stands near a tie
        gaps = np.full((len(inputs["image"]), 2, 2), 1, np.float32)
        gaps[-1, 1, 0] = 1e-5 * inputs["image"][-1].mean()
        return gaps

    for case in cases({"encode": ENCODE}, margins=margins)["encode"]:
        expected = [1] * (len(case.inputs["image"]) - 1) + [1e-5 * case.inputs["image"][-1].mean()]
        np.testing.assert_allclose(case.margins, expected, rtol=1e-6)


def test_what_ties_everywhere_is_given_up_soon():
    calls = []

    def margins(name, inputs):
        calls.append(name)
        return np.zeros((len(inputs["image"]), 2, 2), np.float32)

    cases({"encode": ENCODE}, margins=margins)
    assert len(calls) == len(PLANS) * len(golden.SHRINK) * (golden.HOPELESS_DRAWS + 1)


def test_cases_that_are_clear_of_ties_have_no_margins():
    drawn = cases({"encode": ENCODE}, margins=lambda name, inputs: np.ones((len(inputs["image"]), 2, 2)))
    assert all(case.margins is None for case in drawn["encode"])


def test_the_same_cases_each_time():
    first, second = cases({"encode": ENCODE}), cases({"encode": ENCODE})
    for a, b in zip(first["encode"], second["encode"], strict=True):
        assert np.array_equal(a.inputs["image"], b.inputs["image"])


# --- What cases cost --------------------------------------------------------------------------------------------------

STEPS = Port(kind="count", dtype="int64", shape=(), default=10, minimum=1, maximum=50)
REFINE = task({"image": IMAGE, "steps": STEPS}, {"refined": IMAGE})


@pytest.mark.parametrize("least", [None, 1, 3])
def test_a_loop_goes_less_often_for_more_pictures(least):
    """A batch of 1 shows what many iterations do; each more costs a run of the network for every picture."""
    refine = task({"image": IMAGE, "steps": Port(kind="count", dtype="int64", shape=(), minimum=least)}, {})
    most = {
        batch: max(int(draw_inputs(refine, Plan(batch, 8, 8), np.random.default_rng(i))["steps"]) for i in range(40))
        for batch in (1, 2, 3, 5)
    }
    assert most == {batch: (least or 1) + beyond for batch, beyond in ((1, 4), (2, 2), (3, 1), (5, 0))}


def same(name, inputs):
    return {"refined": inputs["image"]}


def test_tasks_whose_cases_take_long_have_two_and_those_that_they_feed_too(monkeypatch):
    monkeypatch.setattr(golden, "CASES_SECONDS", -1.0)
    drawn = cases({"encode": ENCODE, "decode": DECODE})
    assert {name: len(some) for name, some in drawn.items()} == {"encode": 2, "decode": 2}
    batches = {len(case.inputs["image"]) for case in drawn["encode"]}
    assert len(batches) == 2 and TRACE.batch not in batches


def test_a_slow_feeder_limits_the_cases_of_a_fast_task(monkeypatch):
    costs = {"encode": Golden(cases=1)}
    tasks = Tasks(tasks={"decode": DECODE, "encode": ENCODE}, default="encode", golden=costs)
    drawn = draw_cases(tasks, encode_and_decode, no_margins)
    assert {name: len(some) for name, some in drawn.items()} == {"encode": 1, "decode": 1}


def test_a_family_sets_number_size_and_values():
    cost = Golden(cases=3, size=(12, 16), values={"steps": 7})
    tasks = Tasks(tasks={"refine": REFINE}, default="refine", golden={"refine": cost})
    drawn = draw_cases(tasks, same, no_margins)["refine"]
    assert [case.inputs["image"].shape[1:3] for case in drawn] == [(8, 8), (12, 16), (12, 16)]
    assert [(int(case.inputs["steps"]), case.inputs["steps"].dtype) for case in drawn] == [(7, np.int64)] * 3


@pytest.mark.parametrize(
    ("cost", "says"),
    [
        (Golden(cases=5), "'refine': cases is 5; it must be 1 .. 4, or 0"),
        (Golden(values={"step": 3}), "there is no input 'step'; there are image, steps; did you mean 'steps'?"),
        (Golden(values={"steps": 99}), "steps is 99; it must be 1 .. 50"),
        (Golden(values={"steps": 2.5}), "steps is 2.5; it must be a whole number"),
        (Golden(values={"steps": float("nan")}), "steps is nan; it must be a whole number"),
        (Golden(size=(0, 8)), "size is (0, 8); height and width must be at least 1"),
        (Golden(size=(8, -1)), "size is (8, -1); height and width must be at least 1"),
        (Golden(counts=(1, -2)), "counts are (1, -2); none may be negative"),
    ],
)
def test_a_cost_that_cannot_be_is_refused(cost, says):
    with pytest.raises(UsageError, match=f"^list_tasks: the golden cases of .*{re.escape(says)}"):
        golden.check_golden({"refine": cost}, Tasks(tasks={"refine": REFINE}, default="refine"))


def test_cases_that_take_long_are_reported(monkeypatch):
    said = []
    tasks = Tasks(tasks={"refine": REFINE}, default="refine", golden={"refine": Golden(cases=2)})
    draw_cases(tasks, same, no_margins, on_progress=said.append)
    assert said == []
    monkeypatch.setattr(golden, "NOTED_SECONDS", -1.0)
    draw_cases(tasks, same, no_margins, on_progress=said.append)
    assert said == [f"refine: golden case {n} of at most 2 took 0 s in torch" for n in (1, 2)]


def test_redrawing_ends_with_the_time(monkeypatch):
    monkeypatch.setattr(golden, "TIES_SECONDS", -1.0)
    calls = []

    def margins(name, inputs):
        calls.append(name)
        return np.zeros((len(inputs["image"]), 2, 2), np.float32)

    drawn = cases({"encode": ENCODE}, margins=margins)["encode"]
    assert len(calls) == len(PLANS) and all((case.margins == 0).all() for case in drawn)


def test_what_ties_is_told():
    tied, clear = np.zeros(2, np.float32), np.array([0.5, 0.0], np.float32)
    assert golden.about_ties([Case(), Case()], Tolerance()) == ""
    assert "only checked that most elements agree" in golden.about_ties([Case(margins=tied)], Tolerance())
    assert "1 elements of golden cases tie" in golden.about_ties([Case(margins=clear), Case()], Tolerance())
