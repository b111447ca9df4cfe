"""Golden cases: read, run, judged."""

import msgspec
import numpy as np
import pytest

from tests import tiny
from zoo.errors import InvalidFileError
from zoo.formats import manifest as manifests
from zoo.formats.golden import Case, read_cases, write_cases
from zoo.media import tensors
from zoo.names import GOLDEN
from zoo.run.replay import judge, replay


@pytest.fixture
def bundle(tmp_path):
    return tiny.bundle(tmp_path / "bundle", tasks=("double", "twice"))


def change(bundle, edit):
    arrays = tensors.load(bundle / GOLDEN)
    edit(arrays)
    tensors.save(bundle / GOLDEN, arrays)
    return manifests.read(bundle)


def test_a_right_bundle_is_identical(bundle):
    double, twice = replay(bundle, manifests.read(bundle), "cpu")
    assert (double.task, double.provider, double.verdict) == ("double", "cpu", "identical")
    assert twice.task == "twice" and twice.outputs["doubled"].share_equal == 1


def test_other_outputs_differ_and_only_of_their_task(bundle):
    def edit(arrays):
        arrays["twice/0/outputs/doubled"] = arrays["twice/0/outputs/doubled"] // 2

    manifest = change(bundle, edit)
    double, twice = replay(bundle, manifest, "cpu")
    assert (double.verdict, twice.verdict) == ("identical", "differs")
    assert twice.outputs["doubled"].worst > 2


def test_the_worst_case_is_told(bundle):
    def edit(arrays):
        for case, off in ((1, 1), (2, 2), (3, 0)):
            arrays[f"double/{case}/inputs/image"] = arrays["double/0/inputs/image"] // 4
            arrays[f"double/{case}/outputs/doubled"] = arrays["double/0/inputs/image"] // 4 * 2 + np.uint8(off)

    double, _ = replay(bundle, change(bundle, edit), "cpu")
    assert (double.verdict, double.outputs["doubled"].worst) == ("differs", 2)
    assert double.outputs["doubled"].text == "0.00 % within 1 level, worst 2 (case 2)"


def test_within_is_not_identical(bundle):
    def edit(arrays):
        arrays["double/0/outputs/doubled"] = arrays["double/0/outputs/doubled"] ^ 1

    assert replay(bundle, change(bundle, edit), "cpu")[0].verdict == "within"


def test_the_tolerance_of_the_provider_is_needed(bundle):
    manifest = manifests.read(bundle)
    bare = msgspec.structs.replace(manifest, tolerances={"float32/cuda": manifest.tolerances["float32/cuda"]})
    with pytest.raises(InvalidFileError, match="tiny states no tolerance for float32/cpu; export it again"):
        replay(bundle, bare, "cpu")


def test_what_differs_only_where_tokens_tie_is_within(bundle):
    def edit(arrays):
        arrays["double/0/outputs/doubled"][0] //= 2
        margins = np.ones(len(arrays["double/0/inputs/image"]), np.float32)
        margins[0] = 0
        arrays["double/0/margins"] = margins

    double, _ = replay(bundle, change(bundle, edit), "cpu")
    assert double.verdict == "within" and "; only where choices tie (1 of 2 " in double.outputs["doubled"].text


def test_a_graph_that_computes_something_else_is_not_excused_by_ties_in_every_element(bundle):
    def edit(arrays):
        arrays["double/0/outputs/doubled"] = arrays["double/0/outputs/doubled"] // 2
        arrays["double/0/margins"] = np.zeros(len(arrays["double/0/inputs/image"]), np.float32)

    double, _ = replay(bundle, change(bundle, edit), "cpu")
    assert double.verdict == "differs"
    assert "; choices tie in every element, and 0 of 2 agree" in double.outputs["doubled"].text


REFUSED = {
    "no such task": ({"other/0/inputs/image": 1}, "'other/0/inputs/image' does not name a task, case and port"),
    "no such side": ({"double/0/middle/image": 1}, "does not name a task, case and port"),
    "no number": ({"double/x/inputs/image": 1}, "does not name a task, case and port"),
    "one word": ({"double": 1}, "'double' does not name a task, case and port"),
    "margins of no case": ({"double/margins": 1}, "does not name a task, case and port"),
    "margins of a port": ({"double/0/margins/image": 1}, "does not name a task, case and port"),
    "margins that are no list": ({"double/0/margins": (2, 2)}, "the margins of case 0 of double are not a list"),
    "too short": ({"double/0/image": 1}, "does not name a task, case and port"),
    "no such port": ({"double/0/inputs/label": 1}, "case 0 of double has other ports than the manifest"),
    "half a case": ({"double/1/inputs/image": 1}, "case 1 of double has other ports than the manifest"),
}


@pytest.mark.parametrize("more, reason", REFUSED.values(), ids=REFUSED.keys())
def test_cases_that_do_not_fit_the_manifest(bundle, more, reason):
    manifest = change(bundle, lambda a: a.update({name: np.zeros(value) for name, value in more.items()}))
    with pytest.raises(InvalidFileError, match=reason):
        replay(bundle, manifest, "cpu")


def test_a_task_without_a_case(bundle):
    def edit(arrays):
        for name in [n for n in arrays if n.startswith("twice/")]:
            del arrays[name]

    with pytest.raises(InvalidFileError, match="has no case for the task twice"):
        replay(bundle, change(bundle, edit), "cpu")


def test_writing_then_reading_gives_the_cases_in_order(tmp_path, bundle):
    manifest = manifests.read(bundle)
    image = np.zeros((1, 4, 4, 1), np.uint8)
    cases = {
        task: [Case({"image": image + i}, {"doubled": image + 2 * i}) for i in range(12)] for task in manifest.tasks
    }
    cases["double"][3].margins = np.ones(1, np.float32)
    write_cases(tmp_path / GOLDEN, cases)
    back = read_cases(tmp_path / GOLDEN, manifest)
    assert [int(case.inputs["image"].max()) for case in back["double"]] == list(range(12))
    assert [int(case.outputs["doubled"].max()) for case in back["twice"]] == list(range(0, 24, 2))
    assert [n for n, case in enumerate(back["double"]) if case.margins is not None] == [3]


def test_another_stacks_outputs_may_differ_where_choices_tie_and_nowhere_else(bundle):
    """A task that draws its pixels: the margin of each picture says how close a random number came to its threshold."""
    path, m = bundle / GOLDEN, manifests.read(bundle)
    cases = read_cases(path, m)
    flipped = {name: [{k: a.copy() for k, a in case.outputs.items()} for case in some] for name, some in cases.items()}
    flipped["double"][0]["doubled"][0] ^= 255  # other draws in the first picture
    assert judge(bundle, m, flipped, "node")[0].verdict == "differs"
    for margins, verdict in (([1e-9, 1.0], "within"), ([1.0, 1e-9], "differs")):
        cases["double"][0].margins = np.array(margins, np.float32)
        write_cases(path, cases)
        assert judge(bundle, m, flipped, "node")[0].verdict == verdict


def test_cases_that_take_long_are_reported(bundle, monkeypatch):
    said = []
    replay(bundle, manifests.read(bundle), "cpu", on_progress=said.append)
    assert said == []
    monkeypatch.setattr("zoo.run.replay.NOTED_SECONDS", -1.0)
    replay(bundle, manifests.read(bundle), "cpu", on_progress=said.append)
    assert said == [f"{task}: replayed case 1 of 1 in 0 s" for task in ("double", "twice")]
