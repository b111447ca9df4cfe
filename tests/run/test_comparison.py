"""What counts as the same, and where it ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zoo.hookspecs import Port, Tolerance
from zoo.run.comparison import compare, compare_task, worst_of

IMAGE = Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 1))
TOKENS = Port(kind="tokens", dtype="int64", shape=("batch", "rows", "columns"))
FLOATS = Port(kind="tensor", dtype="float32", shape=("batch", 3))
USUAL = Tolerance()


def picture(**changes: int) -> np.ndarray:
    """2,000 pixels of level 100, with `worst=2, count=1` of another level."""
    image = np.full((2, 25, 40, 1), 100, np.uint8)
    image.reshape(-1)[: changes.get("count", 0)] = 100 + changes.get("off", 0)
    return image


@pytest.mark.parametrize(
    "off, count, verdict, text",
    [
        (0, 0, "identical", "identical"),
        (1, 2000, "within", "100.00 % within 1 level, worst 1"),
        (-1, 2000, "within", "100.00 % within 1 level, worst 1"),
        (2, 2, "within", "99.90 % within 1 level, worst 2"),
        (2, 3, "differs", "99.85 % within 1 level, worst 2"),
        (3, 1, "differs", "99.95 % within 1 level, worst 3"),
        (155, 1, "differs", "99.95 % within 1 level, worst 155"),
    ],
)
def test_pixels(off, count, verdict, text):
    for expected, actual in ((picture(), picture(off=off, count=count)), (picture(off=off, count=count), picture())):
        comparison = compare(IMAGE, expected, actual, USUAL)
        assert (comparison.verdict, comparison.text, comparison.worst) == (verdict, text, abs(off))
        assert comparison.share_equal == 1 - count / 2000


def test_pixels_do_not_wrap_around():
    black, white = np.zeros((1, 8, 8, 1), np.uint8), np.full((1, 8, 8, 1), 255, np.uint8)
    assert compare(IMAGE, black, white, USUAL).worst == 255


def test_the_tolerance_is_the_models_own():
    wide = Tolerance(pixel_levels=3, pixel_levels_worst=9, pixel_share=0.5)
    assert compare(IMAGE, picture(), picture(off=9, count=1000), wide).verdict == "within"
    assert compare(IMAGE, picture(), picture(off=9, count=1001), wide).verdict == "differs"


def test_one_other_token_differs_and_the_share_is_told():
    expected = np.arange(40).reshape(2, 4, 5)
    actual = expected.copy()
    actual[1, 2, 3] += 7
    comparison = compare(TOKENS, expected, actual, USUAL)
    assert (comparison.verdict, comparison.text, comparison.worst) == ("differs", "97.50 % equal", 7)
    assert comparison.share_equal == 0.975


def test_integers_of_all_sizes():
    low, high = np.array([[[-(2**63)]]]), np.array([[[2**63 - 1]]])
    assert compare(TOKENS, low, high, USUAL).worst == pytest.approx(2.0**64)


@pytest.mark.parametrize(
    "expected, actual, verdict",
    [
        (1.0, 1.0001, "within"),
        (1.0, 1.0003, "differs"),
        (1000.0, 1000.09, "within"),
        (0.0, 1e-4, "within"),
        (0.0, 2e-4, "differs"),
        (0.0, -0.0, "within"),
        (np.nan, np.nan, "identical"),
        (np.inf, np.inf, "identical"),
        (np.inf, -np.inf, "differs"),
        (np.inf, 1e30, "differs"),
        (1.0, np.nan, "differs"),
        (1.0, np.inf, "differs"),
        (np.nan, 1.0, "differs"),
    ],
)
def test_floats(expected, actual, verdict):
    arrays = [np.array([[0.5, value, -2.0]], np.float32) for value in (expected, actual)]
    assert compare(FLOATS, *arrays, USUAL).verdict == verdict


def test_nan_in_the_same_place_does_not_hide_the_rest():
    expected = np.array([[np.nan, 1, 2]], np.float32)
    assert compare(FLOATS, expected, expected + np.float32(1e-5), USUAL).verdict == "within"
    assert compare(FLOATS, expected, expected + np.float32(1), USUAL).verdict == "differs"


@pytest.mark.parametrize(
    "actual, text",
    [
        (np.zeros((2, 25, 40, 3), np.uint8), "uint8 [2, 25, 40, 3], expected uint8 [2, 25, 40, 1]"),
        (np.zeros((2, 25, 40, 1), np.float32), "float32 [2, 25, 40, 1], expected uint8 [2, 25, 40, 1]"),
        (np.zeros((1, 25, 40, 1), np.uint8), "uint8 [1, 25, 40, 1], expected uint8 [2, 25, 40, 1]"),
    ],
)
def test_another_shape_or_type_differs(actual, text):
    comparison = compare(IMAGE, picture(), actual, USUAL)
    assert (comparison.verdict, comparison.text, comparison.worst) == ("differs", text, float("inf"))


def test_pictures_are_compared_where_their_tokens_agree():
    ports = {"tokens": TOKENS, "image": IMAGE}
    expected = {"tokens": np.zeros((2, 4, 5), np.int64), "image": picture()}
    actual = {name: array.copy() for name, array in expected.items()}
    actual["tokens"][1, 0, 0] = 3
    actual["image"][1] = 7
    result = compare_task(ports, expected, actual, USUAL)
    assert result["tokens"].verdict == "differs"
    assert result["image"].text == "identical (compared 1 of 2, whose tokens agree)"
    actual["image"][0] = 7  # the picture whose tokens agree
    assert compare_task(ports, expected, actual, USUAL)["image"].verdict == "differs"
    assert worst_of(result) == "differs"


@pytest.mark.parametrize("port", [TOKENS, IMAGE, FLOATS])
def test_outputs_may_differ_where_their_tokens_tie_and_nowhere_else(port):
    expected = {"out": np.zeros([4, 2, 2, 1][: len(port.shape)], port.dtype)}
    margins = np.array([1.0, 1e-3, 1e-3, 2e-3], np.float32)  # the second and third tie

    def compared(row, margins=margins):
        actual = {"out": expected["out"].copy()}
        actual["out"][row] = 9
        return compare_task({"out": port}, expected, actual, USUAL, margins)["out"]

    assert compared([1, 2]).verdict == "within" and compared([1, 2]).share_equal == 0.5
    assert compared([1, 2]).text.endswith("; only where choices tie (2 of 4 have no tie)")
    assert compared([1], None).verdict == "differs"
    assert compared([1], margins[:3]).verdict == "differs"  # of another batch
    for row in (0, 3, [0, 1]):
        assert compared(row).verdict == "differs"


@pytest.mark.parametrize("port", [TOKENS, IMAGE, FLOATS])
@pytest.mark.parametrize(
    ("batch", "flipped", "verdict"),
    [(1, 1, "differs"), (2, 1, "differs"), (3, 1, "within"), (5, 2, "within"), (5, 3, "differs"), (5, 5, "differs")],
)
def test_ties_in_every_element_excuse_only_the_fewer_elements(port, batch, flipped, verdict):
    expected = {"out": np.zeros([batch, 2, 2, 1][: len(port.shape)], port.dtype)}
    actual = {"out": expected["out"].copy()}
    actual["out"][:flipped] = 9
    result = compare_task({"out": port}, expected, actual, USUAL, np.zeros(batch, np.float32))["out"]
    assert result.verdict == verdict
    assert result.text.endswith(f"; choices tie in every element, and {batch - flipped} of {batch} agree")


def test_pictures_whose_tokens_agree_are_compared_though_others_tie():
    ports = {"tokens": TOKENS, "image": IMAGE}
    expected = {"tokens": np.zeros((2, 4, 5), np.int64), "image": picture()}
    actual = {name: array.copy() for name, array in expected.items()}
    actual["tokens"][1], actual["image"][1] = 3, 7
    margins = np.array([1.0, 0.0], np.float32)
    assert worst_of(compare_task(ports, expected, actual, USUAL, margins)) == "within"
    actual["image"][0] = 7
    assert compare_task(ports, expected, actual, USUAL, margins)["image"].verdict == "differs"


@given(hnp.arrays(np.uint8, (1, 4, 4, 1)), hnp.arrays(np.uint8, (1, 4, 4, 1)))
def test_comparing_is_symmetric_in_pixels(a, b):
    one, other = compare(IMAGE, a, b, USUAL), compare(IMAGE, b, a, USUAL)
    assert (one.verdict, one.worst, one.share_equal) == (other.verdict, other.worst, other.share_equal)
    assert (one.verdict == "identical") == np.array_equal(a, b)


@given(hnp.arrays(np.float32, (1, 3), elements=st.floats(width=32)))
def test_everything_is_identical_to_itself(a):
    assert compare(FLOATS, a, a.copy(), USUAL).verdict == "identical"


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_no_tie_excuses_what_is_not_finite(odd):
    expected, actual = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)
    actual[1, 0] = odd
    margins = np.array([1.0, 0.0], np.float32)
    for other, verdict in ((actual, "differs"), (np.where(actual == 0, actual, 9).astype(np.float32), "within")):
        assert (
            compare_task({"out": FLOATS}, {"out": expected}, {"out": other}, USUAL, margins)["out"].verdict == verdict
        )
