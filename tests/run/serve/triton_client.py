"""Asks a server with a real tritonclient, unchanged; runs in the environment that has it, without zoo.

    python triton_client.py HOST:PORT GRPC_HOST:PORT FOLDER

FOLDER has `case.npz`, a golden case of each task of `studio`: `task/inputs/port` and `task/outputs/port`; and
`messages.json`, zoo's own table of the messages. Prints one JSON line: what was found.
"""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http
import tritonclient.http.aio as aio
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


def inputs_of(module, case, task, binary):
    made = []
    for key in case.files:
        if key.startswith(f"{task}/inputs/"):
            array = case[key]
            made.append(module.InferInput(key.split("/")[2], list(array.shape), np_to_triton_dtype(array.dtype)))
            made[-1].set_data_from_numpy(array, **({} if binary is None else {"binary_data": binary}))
    return made


def compare(case, task, answer):
    for key in case.files:
        if key.startswith(f"{task}/outputs/"):
            got = answer.as_numpy(key.split("/")[2])
            assert got.dtype == case[key].dtype and got.shape == case[key].shape, (key, got.dtype, got.shape)
            np.testing.assert_allclose(got, case[key], rtol=1e-6, err_msg=key)


def refused(call, *words):
    try:
        call(*words)
    except InferenceServerException as e:
        return [e.status(), e.message()]
    raise AssertionError(f"{call.__name__} was not refused")


def sync(url, case, tasks):
    client = http.InferenceServerClient(url)
    assert client.is_server_live() and client.is_server_ready()
    name = "studio.encode"
    assert client.is_model_ready(name) and client.is_model_ready(name, "1")
    assert client.get_server_metadata()["name"] == "zoo"
    metadata = client.get_model_metadata(name)
    assert client.get_model_config(name)["input"][0]["name"] == metadata["inputs"][0]["name"] == "image"
    for task in tasks:
        for binary in (True, False):
            outputs = [
                http.InferRequestedOutput(key.split("/")[2], binary_data=binary)
                for key in case.files
                if key.startswith(f"{task}/outputs/")
            ]
            for how in ({}, {"outputs": outputs}, {"request_id": "7"}, {"request_compression_algorithm": "gzip"}):
                answer = client.infer(f"studio.{task}", inputs_of(http, case, task, binary), **how)
                compare(case, task, answer)
                assert answer.get_response().get("id", "") == how.get("request_id", "")
            how = {"request_compression_algorithm": "deflate", "response_compression_algorithm": "gzip"}
            compare(case, task, client.infer(f"studio.{task}", inputs_of(http, case, task, binary), **how))
        handle = client.async_infer(f"studio.{task}", inputs_of(http, case, task, True), model_version="1")
        compare(case, task, handle.get_result())
    label = http.InferInput("label", [1], "BYTES")
    label.set_data_from_numpy(np.array([b"Sneaker"], object))
    seed = http.InferInput("seed", [1], "INT64")
    seed.set_data_from_numpy(np.array([3]))
    answer = client.infer("studio.generate", [label, seed])
    assert answer.as_numpy("image")[0, 0, 0, 0] == 31 * 3 + 7 + 20
    statistics = client.get_inference_statistics("studio.encode")["model_stats"][0]
    assert statistics["inference_stats"]["success"]["count"] > 4
    index = [row["name"] for row in client.get_model_repository_index()]
    client.unload_model("studio.encode")
    assert not client.is_model_ready(name)
    client.load_model("studio.encode")
    assert client.is_model_ready(name)
    return {
        "index": index,
        "unknown": refused(client.infer, "studio.nothing", []),
        "missing": refused(client.infer, "studio.encode", []),
        "output": refused(
            client.infer, "studio.encode", inputs_of(http, case, "encode", True), "", [http.InferRequestedOutput("x")]
        ),
        "shared memory": refused(client.get_system_shared_memory_status),
        "cuda shared memory": refused(client.get_cuda_shared_memory_status),
        "trace": refused(client.get_trace_settings),
        "model trace": refused(client.update_trace_settings, "studio.encode", {"trace_level": ["OFF"]}),
        "log": refused(client.get_log_settings),
    }


def same_messages(table):
    """Every field of zoo's messages is one of the client's, with the same number, type and name."""
    theirs = {}

    def add(message):
        theirs[message.name] = {field.number: field for field in message.fields}
        for inner in message.nested_types:
            add(inner)

    for file in (service_pb2, model_config_pb2):
        for message in file.DESCRIPTOR.message_types_by_name.values():
            add(message)
    for name, fields in table.items():
        for number, field, kind, repeated in fields:
            their = theirs[name][number]
            assert (their.name, their.type, getattr(their, "is_repeated", None)) == (field, kind, repeated), (
                name,
                field,
            )
    return len(table)


def over_grpc(url, case, tasks):
    client = grpc.InferenceServerClient(url)
    assert client.is_server_live() and client.is_server_ready()
    name = "studio.encode"
    assert client.is_model_ready(name) and client.is_model_ready(name, "1")
    assert client.get_server_metadata().name == "zoo"
    metadata = client.get_model_metadata(name)
    assert client.get_model_config(name).config.input[0].name == metadata.inputs[0].name == "image"
    assert list(metadata.inputs[0].shape) == [-1, -1, -1, 1] and list(metadata.versions) == ["1"]
    for task in tasks:
        outputs = [
            grpc.InferRequestedOutput(key.split("/")[2]) for key in case.files if key.startswith(f"{task}/outputs/")
        ]
        for how in ({}, {"outputs": outputs}, {"request_id": "7"}, {"compression_algorithm": "gzip"}):
            answer = client.infer(f"studio.{task}", inputs_of(grpc, case, task, None), **how)
            compare(case, task, answer)
            assert answer.get_response().id == how.get("request_id", "")
    label = grpc.InferInput("label", [1], "BYTES")
    label.set_data_from_numpy(np.array([b"Sneaker"], object))
    seed = grpc.InferInput("seed", [1], "INT64")
    seed.set_data_from_numpy(np.array([3]))
    assert client.infer("studio.generate", [label, seed]).as_numpy("image")[0, 0, 0, 0] == 31 * 3 + 7 + 20
    statistics = client.get_inference_statistics("studio.encode").model_stats[0]
    assert statistics.inference_stats.success.count == 4 and statistics.batch_stats[0].batch_size
    index = [row.name for row in client.get_model_repository_index().models]
    client.unload_model("studio.encode")
    assert not client.is_model_ready(name)
    unloaded = refused(client.infer, "studio.encode", inputs_of(grpc, case, "encode", None))
    client.load_model("studio.encode")
    assert client.is_model_ready(name)
    return {
        "index": index,
        "unloaded": unloaded,
        "unknown": refused(client.infer, "studio.nothing", []),
        "missing": refused(client.infer, "studio.encode", []),
        "shared memory": refused(client.get_system_shared_memory_status),
        "trace": refused(client.get_trace_settings),
        "log": refused(client.get_log_settings),
    }


async def together(module, url, case, tasks, binary):
    client = module.InferenceServerClient(url)
    calls = [(task, client.infer(f"studio.{task}", inputs_of(module, case, task, binary))) for task in tasks * 20]
    for (task, _), answer in zip(calls, await asyncio.gather(*(call for _, call in calls))):
        compare(case, task, answer)
    assert await client.is_server_ready()
    await client.close()


if __name__ == "__main__":
    url, grpc_url, folder = sys.argv[1:]
    case = np.load(Path(folder) / "case.npz")
    tasks = list(dict.fromkeys(key.split("/")[0] for key in case.files))
    found = {"http": sync(url, case, tasks), "grpc": over_grpc(grpc_url, case, tasks)}
    asyncio.run(together(aio, url, case, tasks, True))
    asyncio.run(together(grpc_aio, grpc_url, case, tasks, None))
    found["messages"] = same_messages(json.loads((Path(folder) / "messages.json").read_text()))
    print(json.dumps(found))
