"""The protocol over gRPC: values raw and typed, what is wrong, keys, clients that leave, and the end."""

import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.cli.commands import zoo
from tests.tiny_tasks import _tasks
from zoo.cli import serve
from zoo.errors import InvalidFileError, PluginError, UsageError
from zoo.run.serve import rpc
from zoo.run.serve.messages import PACKAGE, SERVICE, messages

from .server import SECONDS, serving, slow

TASKS, M = _tasks(), messages()
IMAGE = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)


def tensor(name: str, array: np.ndarray, datatype: str, typed: bool = False) -> dict:
    given = {"name": name, "datatype": datatype, "shape": array.shape}
    if typed:
        given["contents"] = {rpc.CONTENTS[datatype]: array.reshape(-1).tolist()}
    return given


def infer(*inputs, raw=(), **fields):
    return M["ModelInferRequest"](model_name="m", inputs=inputs, raw_input_contents=raw, **fields)


def image(typed=True, **changes):
    return tensor("image", IMAGE, "UINT8", typed) | changes


def test_raw_and_typed_values_give_the_same_array():
    for request in (infer(image()), infer(image(False), raw=[IMAGE.tobytes()])):
        decoded = rpc.decode(M["ModelInferRequest"].FromString(request.SerializeToString()), "encode", TASKS["encode"])
        assert (decoded.inputs["image"] == IMAGE).all() and decoded.inputs["image"].dtype == np.uint8
        assert decoded.outputs == {"tokens": True, "size": True}


def test_every_type_that_a_task_takes():
    label = {"name": "label", "datatype": "BYTES", "shape": [2], "contents": {"bytes_contents": [b"Shirt", b"Sneaker"]}}
    steps = tensor("steps", np.array(7), "INT64", True)
    guidance = tensor("guidance", np.array([0.1, 0.05], np.float32), "FP32", True)
    decoded = rpc.decode(infer(label, steps, guidance, id="x"), "generate", TASKS["generate"])
    assert decoded.id == "x" and decoded.inputs["label"].tolist() == [0, 1] and decoded.inputs["steps"] == 7
    assert decoded.inputs["guidance"].tolist() == guidance["contents"]["fp32_contents"]


BAD = {
    "raw for some": (infer(image(False), image(False), raw=[b"1"]), "1 raw_input_contents for 2 inputs"),
    "both": (infer(image(), raw=[IMAGE.tobytes()]), "image has both contents and raw_input_contents"),
    "too few bytes": (infer(image(False), raw=[bytes(127)]), "image has 127 bytes; UINT8 [2, 8, 8, 1] has 128"),
    "none": (infer(image(False)), "image has 0 values; the shape [2, 8, 8, 1] has 128"),
    "another field": (
        infer(image(False, contents={"int64_contents": [1]})),
        "image has its values in int64_contents; UINT8 belongs in uint_contents",
    ),
    "half precision": (
        infer(image(False, datatype="FP16", contents={"fp32_contents": [1]})),
        "image has its values in fp32_contents; FP16 belongs raw",
    ),
    "too large": (infer(image(False, contents={"uint_contents": [256] * 128})), "which do not fit into uint8"),
    "a negative shape": (infer(image(shape=[-2])), "has the shape [-2]; lengths must be 0 .. 2147483647"),
    "an unknown datatype": (infer(image(False, datatype="X"), raw=[b""]), "image has the datatype 'X'; there are BOOL"),
    "an unknown output": (infer(image(), outputs=[{"name": "x"}]), "encode has no output 'x'; it gives tokens, size"),
    "shared memory": (
        infer(image(parameters={"shared_memory_region": {"string_param": "x"}})), "there is no shared memory",
    ),
    "twice": (infer(image(), image()), "the input image is there twice"),
    "no input": (infer(), "encode needs image"),
}  # fmt: skip


@pytest.mark.parametrize("request_, says", BAD.values(), ids=BAD)
def test_what_is_wrong_is_one_line(request_, says):
    with pytest.raises((UsageError, InvalidFileError)) as caught:
        rpc.decode(request_, "encode", TASKS["encode"])
    assert says in str(caught.value) and "\n" not in str(caught.value)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PARAMETERS = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "binary_data_output", "classification", "priority"]),
    st.one_of(
        st.fixed_dictionaries({"bool_param": st.booleans()}),
        st.fixed_dictionaries({"int64_param": st.integers(-3, 200)}),
        st.fixed_dictionaries({"string_param": TEXT}),
        st.just({}),
    ),
    max_size=2,
)
CONTENTS = st.one_of(
    st.fixed_dictionaries({"bool_contents": st.lists(st.booleans(), max_size=9)}),
    st.fixed_dictionaries({"uint_contents": st.lists(st.integers(0, 2**32 - 1), max_size=70)}),
    st.fixed_dictionaries({"int64_contents": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9)}),
    st.fixed_dictionaries({"fp32_contents": st.lists(st.floats(width=32), max_size=9)}),
    st.fixed_dictionaries({"bytes_contents": st.lists(st.binary(max_size=9), max_size=4)}),
    st.just({}),
)
INPUTS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image", "tokens", "size", "label", "seed", "steps", "guidance"]) | TEXT,
        "datatype": st.sampled_from(sorted(rpc.CONTENTS)) | TEXT,
        "shape": st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), max_size=5),
        "parameters": PARAMETERS,
    },
    optional={"contents": CONTENTS},
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    task=st.sampled_from(sorted(TASKS)),
    inputs=st.lists(INPUTS, max_size=4),
    raw=st.lists(st.binary(max_size=80), max_size=4),
    outputs=st.lists(st.fixed_dictionaries({"name": st.sampled_from(["size", "image"]) | TEXT}), max_size=2),
    parameters=PARAMETERS,
)
def test_no_request_is_more_than_refused(task, inputs, raw, outputs, parameters):
    request = infer(*inputs, raw=raw, outputs=outputs, parameters=parameters)
    try:
        decoded = rpc.decode(request, task, TASKS[task])
    except (UsageError, InvalidFileError) as e:
        assert "\n" not in str(e)
    else:
        assert decoded.inputs.keys() == TASKS[task].inputs.keys()


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "zoo.run.serve.rpc")
    with pytest.raises(PluginError, match="zoo serve --grpc-port needs grpc: .*grpc"):
        serve._rpc(None, "127.0.0.1", 0)


# --- A server ---


class Client:
    def __init__(self, address: str):
        self.channel = grpc.insecure_channel(address)

    def __call__(self, method: str, request=None, timeout: float = SECONDS, key: str = ""):
        ask = self.channel.unary_unary(
            f"/{PACKAGE}.{SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=M[f"{method}Response"].FromString,
        )
        metadata = [("authorization", f"Bearer {key}")] if key else []
        return ask(request or M[f"{method}Request"](), timeout=timeout, metadata=metadata)

    def refused(self, *words, **named) -> tuple[str, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self(*words, **named)
        return caught.value.code().name, caught.value.details()


def play(steps: int):
    pixels = np.full((1, 8, 8, 1), 7, np.uint8)
    inputs = [tensor("image", pixels, "UINT8", True), tensor("steps", np.array(steps), "INT64", True)]
    return M["ModelInferRequest"](model_name="slow.play", inputs=inputs)


@pytest.mark.slow
def test_keys_limits_and_ports(tmp_path):
    tiny.bundle(tmp_path / "tiny")
    words = [tmp_path / "tiny", "--grpc-port", 0, "--max-body", 1, "--access-log", tmp_path / "log"]
    with serving(tmp_path, *words, ZOO_SERVE_API_KEYS="hidden") as server:
        client = Client(server.grpc)
        assert client("ServerLive").live and client("ServerReady").ready
        assert client.refused("ServerMetadata") == (
            "UNAUTHENTICATED", "send a key in the metadata: authorization: Bearer KEY"
        )  # fmt: skip
        assert client.refused("ServerMetadata", key="hidde")[0] == "UNAUTHENTICATED"
        assert client("ServerMetadata", key="hidden").name == "zoo"
        ask = M["ModelInferRequest"](model_name="tiny.double", inputs=[image()])
        answer = client("ModelInfer", ask, key="hidden")
        doubled = np.minimum(2 * IMAGE.astype(int), 255).astype(np.uint8)
        assert answer.raw_output_contents[0] == doubled.tobytes() and answer.model_version == "1"
        large = infer(image(False), raw=[bytes(3 << 20)])
        assert client.refused("ModelInfer", large, key="hidden")[0] == "RESOURCE_EXHAUSTED"
        load = M["RepositoryModelLoadRequest"](model_name="tiny")
        load.parameters["a"].bool_param = True
        assert client.refused("RepositoryModelLoad", load, key="hidden")[1].endswith("it takes no parameters")
        port = int(server.grpc.rpartition(":")[2])
        done = zoo("serve", tmp_path / "tiny", "--port", 0, "--grpc-port", port)
        assert (done.code, done.err) == (
            7, f"Error: cannot serve gRPC on 127.0.0.1, port {port}: it is in use, or not of this machine;"
            " choose another --grpc-port\n",
        )  # fmt: skip
        with socket.create_connection(("127.0.0.1", port)) as garbage:
            garbage.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client("ModelInfer", ask, key="hidden").raw_output_contents[0] == doubled.tobytes()
    log = (tmp_path / "log").read_text()
    assert '"protocol":"grpc"' in log and '"model":"tiny:1","task":"double"' in log and "hidden" not in log
    assert '"client":"127.0.0.1"' in log


@pytest.mark.slow
def test_a_client_that_left_makes_room_and_a_full_queue_refuses(tmp_path):
    slow(tmp_path / "slow")
    with serving(tmp_path, tmp_path / "slow", "--grpc-port", 0, "--queue", 1) as server, ThreadPoolExecutor(2) as pool:
        client = Client(server.grpc)
        held = [pool.submit(client.refused, "ModelInfer", play(10**8), timeout=3)]
        time.sleep(0.5)
        held.append(pool.submit(client.refused, "ModelInfer", play(10**8 + 1), timeout=3))
        time.sleep(0.5)
        assert client.refused("ModelInfer", play(1)) == (
            "UNAVAILABLE", "1 calls are waiting, as many as may; repeat it later"
        )  # fmt: skip
        assert [one.result()[0] for one in held] == ["DEADLINE_EXCEEDED"] * 2
        end = time.monotonic() + SECONDS
        while True:
            try:
                answer = client("ModelInfer", play(1))
                break
            except grpc.RpcError as e:
                assert e.code() is grpc.StatusCode.UNAVAILABLE and time.monotonic() < end
                time.sleep(0.1)
        assert answer.raw_output_contents[0] == bytes([7]) * 64


@pytest.mark.slow
def test_sigterm_answers_what_it_accepted(tmp_path):
    slow(tmp_path / "slow")
    with serving(tmp_path, tmp_path / "slow", "--grpc-port", 0) as server, ThreadPoolExecutor(1) as pool:
        client = Client(server.grpc)
        begin = time.monotonic()
        client("ModelInfer", play(64))
        steps = max(64, int(2 * 64 / (time.monotonic() - begin)))
        call = pool.submit(client, "ModelInfer", play(steps))
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert not client("ServerReady").ready
        assert client.refused("ModelInfer", play(1)) == ("UNAVAILABLE", "the server is stopping")
        assert call.result(SECONDS).raw_output_contents[0] == bytes([7]) * 64
        assert server.process.wait(SECONDS) == 0
