"""Checkpoints: any state comes back, a killed writer leaves the old one, foreign files are refused."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from zoo.build import checkpoint as checkpoints
from zoo.build.checkpoint import CHECKPOINT, Checkpoint
from zoo.errors import InvalidFileError, NotFoundError, StoreError

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
tensors = st.builds(
    lambda shape, dtype, seed: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
    st.integers(0, 99),
)
plain = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=5)
keys = st.sampled_from(["a", "a/b", "b", "0", "\0tensor", "dict", "value", ""]) | st.integers(0, 3)
trees = st.recursive(
    tensors | plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(keys, trees, max_size=4))
def test_any_state_comes_back_as_it_was(tmp_path, state):
    saved = Checkpoint(run={"family": "tiny", "settings": {"steps": 3}}, step=17, seconds=1.5, state=state)
    checkpoints.save(tmp_path / CHECKPOINT, saved)
    loaded = checkpoints.load(tmp_path)
    assert same(loaded.state, state)
    assert (loaded.run, loaded.step, loaded.seconds) == (saved.run, 17, 1.5)


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_its_mode_follows_the_umask_and_an_old_one_keeps_its_own(tmp_path, umask):
    (tmp_path / "old").touch()
    (tmp_path / "old").chmod(0o640)
    before = os.umask(umask)
    try:
        for name in ("new", "old"):
            checkpoints.save(tmp_path / name, Checkpoint({}, 1, 0.0, {"x": torch.ones(5)}))
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "new": 0o666 & ~umask,
        "old": 0o640,
    }


def test_an_optimiser_goes_on_from_its_saved_state(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.Adam([weight], betas=(0.8, 0.9))
    weight.sum().backward()
    optimiser.step()
    checkpoints.save(tmp_path / "c", Checkpoint({}, 1, 0.0, {"optimizer": optimiser.state_dict()}))
    other = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
    other.load_state_dict(checkpoints.load(tmp_path / "c").state["optimizer"])
    assert same(other.state_dict()["state"], optimiser.state_dict()["state"])
    assert other.param_groups[0]["betas"] == [0.8, 0.9]  # a tuple comes back as a list


def test_tensors_that_share_memory_or_are_not_contiguous_are_saved(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    checkpoints.save(tmp_path / "c", Checkpoint({}, 0, 0.0, {"all": whole, "row": whole[1], "turned": whole.t()}))
    state = checkpoints.load(tmp_path / "c").state
    assert torch.equal(state["row"], whole[1]) and torch.equal(state["turned"], whole.t())


def test_a_state_of_other_things_is_a_bug_that_names_the_place(tmp_path):
    with pytest.raises(TypeError, match="/optimizer/0 is a <class 'object'>"):
        checkpoints.save(tmp_path / "c", Checkpoint({}, 0, 0.0, {"optimizer": [object()]}))


def test_saving_leaves_nothing_but_the_checkpoint(tmp_path):
    for step in (1, 2):
        checkpoints.save(tmp_path / "new" / CHECKPOINT, Checkpoint({}, step, 0.0, {"x": torch.ones(5)}))
        assert [p.name for p in (tmp_path / "new").iterdir()] == [CHECKPOINT]
    assert checkpoints.load(tmp_path / "new").step == 2


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from zoo.build import checkpoint as checkpoints
path, when = Path(sys.argv[1]), sys.argv[2]
real = getattr(checkpoints, when) if when == "save_file" else os.fsync
def killed(*args, **options):
    if when == "save_file":  # half of the file is there
        real(*args, **options)
        os.truncate(args[1], os.path.getsize(args[1]) // 2)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(checkpoints if when == "save_file" else os, when, killed)
checkpoints.save(path, checkpoints.Checkpoint({}, 2, 0.0, {"x": torch.zeros(1000)}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["save_file", "fsync"])
def test_a_process_killed_while_writing_leaves_the_old_checkpoint(tmp_path, when):
    path = tmp_path / CHECKPOINT
    checkpoints.save(path, Checkpoint({}, 1, 0.0, {"x": torch.ones(1000)}))
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), when], env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL
    assert checkpoints.load(tmp_path).step == 1
    checkpoints.save(path, Checkpoint({}, 3, 0.0, {"x": torch.ones(1000)}))  # and what it left is in nobody's way
    assert checkpoints.load(tmp_path).step == 3 and [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write the checkpoint .*file/c"):
        checkpoints.save(tmp_path / "file" / "c", Checkpoint({}, 1, 0.0, {}))


def test_no_checkpoint(tmp_path):
    with pytest.raises(NotFoundError, match="no checkpoint at .*checkpoint.safetensors"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize(
    "about",
    [
        None,
        "not JSON",
        "[1]",
        "{}",
        json.dumps({"run": {}, "step": 1, "seconds": 0, "state": {"\0tensor": "elsewhere"}}),
        json.dumps({"run": {}, "step": 1, "seconds": 0, "state": 5}),
    ],
)
def test_other_safetensors_are_no_checkpoint(tmp_path, about):
    save_file({"x": torch.ones(2)}, tmp_path / CHECKPOINT, metadata=about and {"zoo_checkpoint": about})
    with pytest.raises(InvalidFileError, match=r"is not a (readable )?checkpoint"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95 pickle", bytes(100)])
def test_other_files_are_no_checkpoint(tmp_path, content):
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(InvalidFileError, match="is not a readable checkpoint"):
        checkpoints.load(tmp_path)


def test_numbers_that_json_has_no_words_for_survive(tmp_path):
    state = {"inf": math.inf, "nan": math.nan, "minus": -math.inf}
    checkpoints.save(tmp_path / "c", Checkpoint({}, 0, 0.0, state))
    assert same(checkpoints.load(tmp_path / "c").state, state)
