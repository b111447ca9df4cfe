import threading
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_tasks import bundle_of, studio
from zoo.errors import InvalidFileError, UsageError
from zoo.hookspecs import Port, Task
from zoo.run.batches import FIRST, GROWTH, LARGEST, MEMORY, BatchSize, in_batches, join, run_within_memory
from zoo.run.call import execute, gather
from zoo.run.model import Model
from zoo.system import memory as memory_

IMAGE = Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 1))
SIZE = Port(kind="size", dtype="int64", shape=(2,))
TASK = Task(summary="x", inputs={"image": IMAGE, "size": SIZE}, outputs={"image": IMAGE, "size": SIZE})
MIB = 1 << 20


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(bundle_of(studio(tmp_path / "studio")), "cpu")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What the system says about memory, bytes."""
    said = {"VmRSS": 100 * MIB, "VmHWM": 100 * MIB, "MemAvailable": 100_000 * MIB}
    monkeypatch.setattr(memory_, "_line", lambda file, line: said[line])
    return said


def sizes(memory: dict[str, int], each: float, fixed: int = 0, rounds: int = 12) -> list[int]:
    """The sizes of the batches of a model whose pictures take `each` MiB, and a call `fixed` MiB."""
    size, seen = BatchSize(), []
    for _ in range(rounds):
        seen.append(size.size)
        memory["VmHWM"] = max(memory["VmHWM"], 100 * MIB + int((each * size.size + fixed) * MIB))
        size.measured(size.size)
    return seen


def test_batches_grow_to_what_fits_and_no_further(memory: dict[str, int]):
    assert sizes(memory, 0.01)[:4] == [FIRST, FIRST * GROWTH, FIRST * GROWTH**2, LARGEST]
    memory["VmHWM"] = 100 * MIB
    chosen = sizes(memory, 8)
    assert chosen[-1] == chosen[-2] == MEMORY // (8 * MIB) and max(chosen) * 8 * MIB <= MEMORY
    memory["VmHWM"] = 100 * MIB
    assert sizes(memory, 300)[1:] == [1] * 11
    memory["VmHWM"] = 100 * MIB
    assert 64 <= sizes(memory, 4, fixed=100)[-1] <= 103  # what a call takes by itself only makes it cautious


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells and forgets a peak")
def test_a_peak_from_before_does_not_make_batches_small():
    np.ones(1 << 30, np.uint8)  # gone again, but the process's peak stays
    size = BatchSize()
    size.measured(FIRST)
    assert size.size == FIRST * GROWTH and not size.settled


def test_little_free_memory_means_small_batches(memory: dict[str, int]):
    memory["MemAvailable"] = 400 * MIB
    assert sizes(memory, 4)[-1] == 25


def test_batches_of_a_slow_model_stay_small(memory: dict[str, int]):
    size = BatchSize()
    size.measured(FIRST, 1.0)
    assert size.size == 4 * FIRST
    size.measured(4 * FIRST, 8.0)
    assert (size.size, size.settled) == (2 * FIRST, True)
    size = BatchSize()
    size.measured(FIRST, 100.0)
    assert (size.size, size.settled) == (FIRST, True)


def test_a_size_that_was_given_stays(memory: dict[str, int]):
    size = BatchSize(3)
    size.measured(3)
    assert (size.size, size.settled) == (3, True)


def test_a_system_that_says_nothing_gets_small_batches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory_, "_line", lambda file, line: 0)
    size = BatchSize()
    size.measured(size.size)
    assert (size.size, size.settled) == (FIRST, True)


def test_larger_pictures_start_with_a_small_batch_again(memory: dict[str, int]):
    size = BatchSize()
    assert size.most(100) == FIRST
    for _ in range(4):
        size.measured(size.size)
    assert (size.most(100), size.settled) == (LARGEST, True)
    assert size.most(50) == LARGEST  # they fit all the more
    assert (size.most(101), size.settled) == (FIRST, False)
    size = BatchSize(20)
    assert (size.most(1), size.most(2)) == (20, 20)


def test_a_batch_before_larger_pictures_does_not_choose_their_size(memory: dict[str, int]):
    left, taken, size = [100] * 600 + [9999] * 30, [], BatchSize()

    def prepare(most: int) -> list[int] | None:
        if not left:
            return None
        most = min(most, size.most(left[0]))
        batch = [n for n in left[:most] if n == left[0]]
        del left[: len(batch)]
        taken.append(len(batch))
        return batch

    list(in_batches(prepare, sum, len, size))
    assert taken == [8, 32, 128, 256, 176, FIRST, 22]


def test_a_stream_starts_small_again_with_larger_pictures(model: Model, memory: dict[str, int]):
    pictures = [np.zeros((side, side, 1), np.uint8) for side in [8] * 40 + [16] * 20]
    counts = [len(outputs["reconstruction"]) for outputs in model.stream("reconstruct", pictures)]
    assert counts == [8, 32, 8, 12]


def test_results_come_in_order_and_no_more_than_three_batches_are_held():
    prepared, most = iter(range(10)), []

    def prepare(count: int) -> int | None:
        number = next(prepared, None)
        most.append(-1 if number is None else number)
        return number

    given = []
    for batch, result in in_batches(prepare, lambda batch: batch * 10, lambda batch: 1, BatchSize(1)):
        assert most[-1] - batch <= 2 or most[-1] == -1
        given.append((batch, result))
    assert given == [(n, n * 10) for n in range(10)]


def test_the_next_batch_runs_while_the_caller_works():
    running, working = threading.Event(), threading.Event()

    def run(batch: int) -> bool:
        if batch == 0:
            return True
        running.set()
        return working.wait(5)

    numbers = iter([0, 1, None])
    for _, met in in_batches(lambda count: next(numbers), run, lambda batch: 1, BatchSize(1)):
        working.set()
        assert met and running.wait(5)


def test_batches_that_nobody_wants_any_more_are_interrupted():
    """After Ctrl-C, or when the caller stops early: also what is tried again after the first call has ended."""
    ended, threads, calls = threading.Event(), set(), []

    def run(batch: int) -> int:
        for _ in range(2 if batch else 0):
            assert ended.wait(30), "was not interrupted"
            ended.clear()
            calls.append(threading.get_ident())
        return batch

    def interrupt(thread: int) -> None:
        threads.add(thread)
        ended.set()

    numbers = iter([0, 1, None])
    batches = in_batches(lambda count: next(numbers), run, lambda batch: 1, BatchSize(1), interrupt)
    assert next(batches) == (0, 0)
    batches.close()
    assert len(calls) == 2 and threads == set(calls) != {threading.get_ident()}


@pytest.mark.parametrize("stage", ["prepare", "run"])
def test_what_was_done_before_an_error_is_given(stage: str):
    numbers = iter(range(5))

    def step(name: str, number: int) -> int:
        if stage == name and number == 2:
            raise InvalidFileError("no")
        return number

    given = []
    with pytest.raises(InvalidFileError, match="^no$"):
        for batch, _ in in_batches(
            lambda count: step("prepare", next(numbers)), lambda n: step("run", n), lambda n: 1, BatchSize(1)
        ):
            given.append(batch)
    assert given == [0, 1]


def test_a_batch_that_does_not_fit_is_run_in_halves_and_the_next_are_smaller():
    ran: list[int] = []

    def run(inputs):
        ran.append(len(inputs["image"]))
        if ran[-1] > 3:
            raise InvalidFileError("x.onnx failed on cpu: std::bad_alloc")
        return {"image": inputs["image"] + 1, "size": inputs["size"]}

    images, size = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1), BatchSize(10)
    outputs = run_within_memory(run, TASK, {"image": images, "size": np.array([1, 1])}, size)
    assert (outputs["image"] == images + 1).all() and outputs["size"].tolist() == [1, 1]
    assert ran == [10, 5, 2, 3, 5, 2, 3] and size.size == 2

    def broken(inputs):
        ran.append(0)
        raise InvalidFileError("x.onnx failed on cpu: a shape")

    ran.clear()
    with pytest.raises(InvalidFileError, match="a shape"):
        run_within_memory(broken, TASK, {"image": images, "size": np.array([1, 1])})
    assert ran == [0]


def test_outputs_of_batches_are_joined_where_they_have_a_batch():
    parts = [{"image": np.full((n, 1, 1, 1), n, np.uint8), "size": np.array([4, 4])} for n in (2, 1)]
    joined = join(TASK.outputs, parts)
    assert joined["image"].ravel().tolist() == [2, 2, 1] and joined["size"].tolist() == [4, 4]


def test_a_call_in_batches_gives_the_same(model: Model):
    call = gather(model, "generate", {"seed": 3, "label": ["shirt"]}, number=100, note=lambda line: None)
    whole = execute(model, call, one_batch=True).outputs["image"]
    assert len(whole) == 100
    for size in (None, BatchSize(7)):
        assert (execute(model, call, size).outputs["image"] == whole).all()


def test_a_stream_reads_its_elements_when_their_turn_comes(model: Model):
    taken = 0

    def pictures():
        nonlocal taken
        for number in range(100):
            taken += 1
            yield np.full((8, 8, 1), number, np.uint8)

    seen = 0
    for outputs in model.stream("reconstruct", pictures(), batch_size=5):
        assert outputs["reconstruction"].shape == (5, 8, 8, 1) and taken <= seen + 15
        assert (outputs["reconstruction"][:, 0, 0, 0] == np.arange(seen, seen + 5)).all()
        seen += 5
    assert seen == 100


def test_a_stream_of_seeds_or_of_several_inputs(model: Model):
    expected = model.generate(seed=np.arange(9), label="Sneaker", guidance=0)["image"]
    streamed = list(model.stream("generate", range(9), batch_size=4, label="Sneaker", guidance=0))
    assert [len(outputs["image"]) for outputs in streamed] == [4, 4, 1]
    assert (np.concatenate([outputs["image"] for outputs in streamed]) == expected).all()
    both = {"seed": range(3), "label": ["Shirt", "Sneaker", "Shirt"]}
    [outputs] = model.stream("generate", both, guidance=0)
    assert (outputs["image"] == model.generate(**both | {"guidance": 0})["image"]).all()


def test_a_batch_of_a_stream_ends_where_the_shape_changes(model: Model):
    pictures = [np.zeros((height, 8, 1), np.uint8) for height in (8, 8, 9, 9, 9, 8)]
    shapes = [outputs["reconstruction"].shape[:2] for outputs in model.stream("reconstruct", pictures)]
    assert shapes == [(2, 8), (3, 9), (1, 8)]


def test_mistakes_in_a_stream_are_one_line(model: Model):
    with pytest.raises(UsageError, match="^batch_size is 0; it must be 1 .. 10000$"):
        model.stream("generate", range(3), batch_size=0)
    with pytest.raises(UsageError, match="^seed is given twice: as a stream, and for all elements$"):
        model.stream("generate", range(3), seed=1)
    with pytest.raises(UsageError, match="^seed and label have different lengths$"):
        list(model.stream("generate", {"seed": range(3), "label": ["Shirt"]}))
    with pytest.raises(UsageError, match="pictures are uint8"):
        list(model.stream("reconstruct", np.zeros((2, 8, 8, 1), np.float32)))
