"""Configs that are the same after they were written, and those that are not."""

from fractions import Fraction

import numpy as np
import pytest

from zoo.build.train import Run, _of_config
from zoo.build.written import PLAIN, first_change, lost_in_writing


@pytest.mark.parametrize(
    ("config", "lost"),
    [
        ({"codec": {"sizes": {1, 2}}}, "codec.sizes is a set"),
        ({"rates": [0.5, Fraction(1, 3)]}, "rates[1] is a fractions.Fraction"),
        ({"width": np.float64(3)}, "width is a numpy.float64"),
        ({"codec": {"rate": float("nan")}}, "codec.rate is nan"),
        ({"levels": {1: 2}}, "levels has the key 1"),
        (3j, "it is a complex"),
    ],
)
def test_a_value_that_is_lost_is_named(config, lost):
    assert lost_in_writing(config) == f"{lost}; {PLAIN}"


def test_plain_values_are_kept():
    assert lost_in_writing({"a": {"b": [1, 2.5, "x", None, True], "c": ()}, "d": {}}) == ""


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ({"a": {"b": 4}}, {"a": {"b": 8}}, "a.b was 4 and is 8"),
        ({"a": 1}, {"a": 1, "b": 2}, "b was None and is 2"),
        ({"a": [1, 2]}, {"a": [1, 3]}, "a[1] was 2 and is 3"),
        ({"a": [1]}, {"a": [1, 2]}, "a was [1] and is [1, 2]"),
        ({"a": (1, 2)}, {"a": [1, 2]}, ""),
    ],
)
def test_the_first_change_is_named(before, after, change):
    assert first_change(before, after) == change


@pytest.mark.parametrize(
    ("message", "end"),
    [
        ("training: there is no 'layrs'; there are steps, seed", "; did you mean 'layers' of the config?"),
        ("training: there is no 'num_code'; there are steps", "; did you mean 'codec.num_codes' of the config?"),
        ("training: there is no 'zzz'; there are steps", "; the config has layers, codec.num_codes"),
        ("training: there is no 'other'; there are steps", ""),  # not what the user set
        ("training: steps is 0; it must be a whole number", ""),
    ],
)
def test_an_unknown_setting_may_be_a_misspelt_field_of_the_config(message, end):
    run = Run(
        family="f", config={"layers": 2, "codec": {"num_codes": 4}}, settings={"layrs": 3, "num_code": 8, "zzz": 1},
        name="n", version=1, summary="s", license="MIT",
    )  # fmt: skip
    assert _of_config(message, run) == end
