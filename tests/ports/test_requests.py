"""What the kinds of files make of a request's values, and of an answer: the same array, and never a path."""

import numpy as np
import pytest

from zoo.errors import UsageError
from zoo.hookspecs import Port
from zoo.ports.kinds import kind_of

PORTS = {
    "image": Port(kind="image", dtype="uint8", shape=("batch", "height", "width", 3)),
    "video": Port(kind="video", dtype="uint8", shape=("batch", "frames", "height", "width", 1), frame_rate=8),
    "audio": Port(kind="audio", dtype="float32", shape=("batch", "samples", 1), sample_rate=8000),
}
ARRAYS = {
    "image": np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3),
    "video": np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5, 1),
    "audio": (np.arange(40, dtype=np.float32) / 64 - 0.25).reshape(2, 20, 1),
}


@pytest.mark.parametrize("name", PORTS)
def test_an_answer_can_be_sent_as_a_request(name):
    port, kind, array = PORTS[name], kind_of(PORTS[name]), ARRAYS[name]
    for value in (kind.to_answer(port, array), array.tolist()):
        got = kind.from_value(name, port, kind.from_request(name, port, value))
        assert got.dtype == array.dtype and (got == array).all()


@pytest.mark.parametrize("name", PORTS)
def test_text_is_never_a_path(name):
    with pytest.raises(UsageError, match="not base64"):
        kind_of(PORTS[name]).from_request(name, PORTS[name], "/etc/passwd")
