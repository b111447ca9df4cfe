"""`Model.live`: outputs of one request after the other, and of requests that wait only the newest."""

import queue
import threading

import numpy as np
import pytest

import zoo
from tests.tiny_tasks import studio
from zoo.run.live import MAX_LINE_BYTES, Newest, split_lines


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return zoo.load(str(studio(tmp_path_factory.mktemp("live") / "studio")))


def test_requests_are_values_or_inputs_and_come_in_order(model):
    live = model.live("generate", [1, {"label": "Sneaker", "seed": 5}, "Shirt"], seed=3)
    seeds, labels = [], []
    for outputs in live:
        seeds.append(outputs.seed.tolist())
        labels.append(live.request)
        assert live.seconds > 0 and live.dropped == 0
    assert seeds == [[3], [5], [3]] and labels == [1, {"label": "Sneaker", "seed": 5}, "Shirt"]


def test_it_is_the_call_itself(model):
    [outputs] = model.live("generate", [2], seed=9)
    np.testing.assert_array_equal(outputs["image"], model.generate(label=2, seed=9)["image"])


def test_after_a_wrong_request_the_next_goes_on(model):
    live = model.live("generate", [0, "trainers", 2], seed=1)
    next(live)
    with pytest.raises(zoo.ZooError, match="'trainers' is not a class"):
        next(live)
    assert live.request == "trainers"
    assert next(live).seed.tolist() == [1]
    with pytest.raises(StopIteration):
        next(live)


def test_a_queue_ends_with_none_and_older_requests_are_dropped(model):
    asked: queue.Queue = queue.Queue()
    live = model.live("generate", asked, latest=True, seed=1)
    asked.put(0)
    next(live)
    for label in (1, 2, 0, 2):
        asked.put(label)
    asked.put(None)
    live._requests._thread.join(10)
    assert [live.request for _ in live] == [2] and live.dropped == 3


def test_an_error_of_the_source_comes_after_its_last_request():
    def source():
        yield 1
        raise OSError("gone")

    newest = Newest(source())
    assert next(newest) == 1
    for _ in range(2):
        with pytest.raises((OSError, StopIteration)) as caught:
            next(newest)
    assert caught.type is StopIteration


def test_the_newest_waits_for_one():
    ready = threading.Event()

    def source():
        ready.wait(10)
        yield "late"

    newest = Newest(source())
    threading.Timer(0.05, ready.set).start()
    assert list(newest) == ["late"]


@pytest.mark.parametrize("piece", [1, 3, 100])
def test_lines_come_as_soon_as_they_are_there(piece):
    data = "ä\n\nb c\nlast".encode()
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)] + [b""]
    assert list(split_lines(lambda most: pieces.pop(0))) == data.split(b"\n")


def test_a_line_without_end_takes_bounded_memory():
    pieces = [b"x" * 65536] * 100 + [b"\nnext\n", b""]
    long, following = split_lines(lambda most: pieces.pop(0))
    assert MAX_LINE_BYTES < len(long) < MAX_LINE_BYTES + 65536 * 2 and following == b"next"
