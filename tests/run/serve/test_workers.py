"""Calls that run as one: which do, and that each gets what it would have got alone."""

import asyncio
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_tasks import _tasks
from zoo.errors import InvalidFileError
from zoo.hookspecs import Port, Task
from zoo.run.serve import batching
from zoo.run.serve.workers import Calls, Late, Unavailable, Workers
from zoo.system.worker import WorkerEnded

TASKS = _tasks()
MANY = 10**9
PICTURE = TASKS["reconstruct"].inputs["image"]


def picture(value: int, number: int = 1, side: int = 8) -> dict[str, np.ndarray]:
    return {"image": np.full((number, side, side, 1), value, np.uint8)}


def drawing(seed: int, steps: int = 5, number: int = 1) -> dict[str, np.ndarray]:
    return {
        "label": np.zeros(number, np.int64),
        "seed": np.arange(seed, seed + number),
        "steps": np.array(steps),
        "guidance": np.zeros(number, np.float32),
    }


def same(task: str, one: dict, two: dict, tasks=TASKS) -> bool:
    keys = [batching.key_of(task, tasks[task], inputs) for inputs in (one, two)]
    return keys[0] is not None and keys[0] == keys[1]


def test_equal_shapes_and_equal_shared_values_fit_together():
    assert same("reconstruct", picture(1), picture(2, 3))
    assert not same("reconstruct", picture(1), picture(1, 1, 12))
    assert same("generate", drawing(1), drawing(7, number=4))
    assert not same("generate", drawing(1, 5), drawing(1, 6))
    assert same("encode", picture(1), picture(2))  # its size follows from the shapes
    tokens = {"tokens": np.zeros((1, 2, 2), np.int64)}
    assert not same("decode", tokens | {"size": np.array([8, 8])}, tokens | {"size": np.array([7, 8])})
    assert batching.key_of("encode", TASKS["encode"], picture(1)) != batching.key_of("r", TASKS["encode"], picture(1))


def test_a_task_whose_ports_do_not_say_that_elements_are_apart_runs_alone():
    """An output about the whole batch, no batch, a batch that is no first axis, a large shared input."""

    def numbers(*shape):
        return Port(kind="tensor", dtype="float32", shape=shape)

    def task(inputs, **outputs):
        return Task(summary="", inputs=inputs, outputs=outputs or {"image": PICTURE})

    tasks = {
        "mean": task({"image": PICTURE}, mean=numbers(1)),
        "none": task({"steps": TASKS["generate"].inputs["steps"]}),
        "second": task({"x": numbers("n", "batch")}),
        "table": task({"image": PICTURE, "x": numbers("n")}),
    }
    assert not any(batching.joins(tasks[name]) for name in ("mean", "none", "second")) and batching.joins(
        tasks["table"]
    )
    for length, fits in ((10, True), (1000, False)):
        inputs = picture(1) | {"x": np.zeros(length, np.float32)}
        assert same("table", inputs, inputs, tasks) == fits


class Machine:
    """In place of a worker: adds one to every pixel; value 13 cannot be computed, 66 ends the worker; a run ends
    only with one of its permits."""

    def __init__(self):
        self.ran: list[list[int]] = []  # the values of each run
        self.permits = MANY
        self.interrupted = 0
        self.tasks = {"reconstruct": Task(summary="", inputs={"image": PICTURE}, outputs={"image": PICTURE})}

    def model(self) -> SimpleNamespace:
        manifest = SimpleNamespace(tasks=self.tasks, default_task="reconstruct")
        return SimpleNamespace(manifest=manifest, session=lambda task: self)

    def run(self, inputs):
        values = inputs["image"][:, 0, 0, 0].tolist()
        self.ran.append(values)
        before = self.interrupted
        while not self.permits:
            time.sleep(0.002)
            if self.interrupted > before:
                raise WorkerEnded("ended")
        self.permits -= 1
        if 13 in values:
            raise InvalidFileError("13 cannot be computed")
        if 66 in values:
            raise WorkerEnded("m: running ended with signal 9")
        return {"image": inputs["image"] + 1}

    def interrupt(self, thread):
        self.interrupted += 1


class Scene:
    """Workers before machines, for one test; `ask` begins a call."""

    def __init__(self, number=1, **calls):
        self.machine = Machine()
        nothing = [lambda: None] * number
        self.workers = Workers(self.machine.tasks, [self.machine.model] * number, nothing, Calls(**calls))

    async def __aenter__(self):
        await self.workers.start()
        return self

    async def __aexit__(self, *_):
        self.machine.permits = MANY
        await self.workers.stop()

    def ask(self, value: int, number: int = 1, side: int = 8) -> asyncio.Task:
        return asyncio.ensure_future(self.workers.run("reconstruct", picture(value, number, side)))

    async def held(self, *values: int) -> list[asyncio.Task]:
        """One call that runs until there are permits, and behind it one for each value."""
        self.machine.permits, before = 0, len(self.machine.ran)
        first = self.ask(100)
        while len(self.machine.ran) == before:
            await asyncio.sleep(0.002)
        asked = [first, *(self.ask(value) for value in values)]
        await asyncio.sleep(0)
        return asked


def right(answer: dict, value: int, number: int = 1, side: int = 8) -> bool:
    return (answer["image"] == picture(value + 1, number, side)["image"]).all() and len(answer["image"]) == number


def test_calls_that_wait_run_as_one_and_each_gets_its_own():
    async def scene():
        async with Scene() as s:
            asked = await s.held(1, 2)
            asked += [s.ask(3, 2), s.ask(4, 1, 12), s.ask(5)]
            await asyncio.sleep(0)
            s.machine.permits = MANY
            answers = await asyncio.gather(*asked)
            assert s.machine.ran == [[100], [1, 2, 3, 3, 5], [4]]
            sizes = (100, 1, 8), (1, 1, 8), (2, 1, 8), (3, 2, 8), (4, 1, 12), (5, 1, 8)
            assert all(
                right(answer, value, number, side) for answer, (value, number, side) in zip(answers, sizes, strict=True)
            )
            runs = {size: count for (_, size), (count, _) in s.workers.counts.runs.items()}
            assert runs == {1: 2, 5: 1} and s.workers.counts.answered["reconstruct"] == 6

    asyncio.run(scene())


def test_no_more_than_a_batch_and_one_large_call_is_as_it_is():
    async def scene():
        async with Scene(batch=4) as s:
            asked = await s.held(1, 2, 3, 4, 5)
            asked.append(s.ask(6, 9))
            await asyncio.sleep(0)
            s.machine.permits = MANY
            await asyncio.gather(*asked)
            assert s.machine.ran == [[100], [1, 2, 3, 4], [5], [6] * 9]
        async with Scene(batch=1) as s:
            asked = await s.held(1, 2)
            s.machine.permits = MANY
            await asyncio.gather(*asked)
            assert s.machine.ran == [[100], [1], [2]]

    asyncio.run(scene())


@pytest.mark.parametrize("bad, error", [(13, InvalidFileError), (66, Unavailable)])
def test_what_fails_one_of_a_batch_does_not_fail_the_others(bad, error):
    async def scene():
        async with Scene() as s:
            asked = await s.held(1, bad, 3)
            s.machine.permits = MANY
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(answers.pop(2), error)
            assert all(right(answer, value) for answer, value in zip(answers, (100, 1, 3), strict=True))
            assert s.machine.ran == [[100], [1, bad, 3], [1], [bad], [3]]
            assert s.workers.counts.failed["reconstruct"] == 1

    asyncio.run(scene())


def test_after_a_batch_that_failed_fewer_are_joined_for_a_while():
    async def scene():
        async with Scene(batch=8) as s:
            asked = await s.held(*[13] * 8)
            s.machine.permits = MANY
            await asyncio.gather(*asked, return_exceptions=True)
            sizes = []
            for _ in range(6):
                s.machine.ran.clear()
                asked = await s.held(*range(1, 9))
                s.machine.permits = MANY
                await asyncio.gather(*asked)
                sizes.append(max(map(len, s.machine.ran)))
            assert sizes[0] < 8 and sizes == sorted(sizes) and sizes[-1] == 8

    asyncio.run(scene())


def test_a_client_that_leaves_a_batch_takes_nobody_with_it(monkeypatch):
    monkeypatch.setattr("zoo.run.serve.workers.GRACE_SECONDS", 0.01)

    async def scene():
        async with Scene() as s:
            asked = await s.held(1, 2)
            s.machine.permits = 1
            await asked[0]
            while len(s.machine.ran) < 2:
                await asyncio.sleep(0.002)
            assert s.machine.ran[1] == [1, 2]
            asked[1].cancel()
            await asyncio.sleep(0.1)
            assert not s.machine.interrupted  # 2 is still wanted
            s.machine.permits = MANY
            assert right(await asked[2], 2)

            asked = await s.held(1, 2)
            for one in asked:
                one.cancel()
            await asyncio.sleep(0.1)
            assert s.machine.interrupted == 1 and not s.workers.waiting

    asyncio.run(scene())


def test_the_deadline_of_a_call_in_a_batch_is_its_own():
    async def scene():
        async with Scene(seconds=0.3) as s:
            asked = await s.held(1)
            await asyncio.sleep(0.2)
            later = s.ask(2)
            await asyncio.sleep(0.15)  # the first two are late
            s.machine.permits = MANY
            answers = await asyncio.gather(*asked, later, return_exceptions=True)
            assert [type(answer) for answer in answers] == [Late, Late, dict] and right(answers[2], 2)

    asyncio.run(scene())


def test_a_single_client_never_waits_for_others():
    async def scene(**calls):
        async with Scene(**calls) as s:
            begin = time.monotonic()
            for value in range(5):
                assert right(await s.ask(value), value)
            return time.monotonic() - begin, s

    took, _ = asyncio.run(scene(batch_seconds=0.5))
    assert took < 0.5


def test_with_company_a_call_waits_for_more():
    async def scene():
        async with Scene(batch=3, batch_seconds=5) as s:
            asked = await s.held(1, 2, 3)
            s.machine.permits = MANY
            await asyncio.gather(*asked)
            asked = [s.ask(4)]
            await asyncio.sleep(0.05)
            begin = time.monotonic()
            await asyncio.gather(*asked, s.ask(5), s.ask(6))  # the batch is full: no 5 s
            assert s.machine.ran[-1] == [4, 5, 6] and time.monotonic() - begin < 2

    asyncio.run(scene())


def test_workers_share_what_waits():
    async def scene():
        async with Scene(number=2) as s:
            asked = [s.ask(value) for value in range(6)]
            await asyncio.gather(*asked)
            assert sorted(map(len, s.machine.ran)) == [3, 3]

    asyncio.run(scene())


VALUES = st.sampled_from([1, 2, 3, 13, 66])
CALLS = st.lists(st.tuples(VALUES, st.integers(1, 3), st.sampled_from([8, 12]), st.integers(0, 2)), max_size=12)


@settings(max_examples=40, deadline=None)
@given(calls=CALLS, workers=st.integers(1, 3), batch=st.integers(1, 6))
def test_every_call_gets_what_it_would_get_alone(calls, workers, batch):
    """Any calls, clients that leave, workers that end: right answers, and everyone is answered."""

    async def scene():
        async with Scene(number=workers, batch=batch) as s:
            asked = []
            for value, number, side, pauses in calls:
                asked.append(s.ask(value, number, side))
                for _ in range(pauses):
                    await asyncio.sleep(0)
                if pauses == 2 and value == 3:
                    asked[-1].cancel()
            async with asyncio.timeout(60):
                answers = await asyncio.gather(*asked, return_exceptions=True)
            for answer, (value, number, side, pauses) in zip(answers, calls, strict=True):
                expected = {13: InvalidFileError, 66: Unavailable}.get(value, dict)
                if pauses == 2 and value == 3 and isinstance(answer, asyncio.CancelledError):
                    continue
                assert isinstance(answer, expected), answer
                assert expected is not dict or right(answer, value, number, side)
            assert not s.workers.waiting
            async with asyncio.timeout(60):
                while s.workers.running:  # what a client left, which ends by itself
                    await asyncio.sleep(0.01)

    asyncio.run(scene())
