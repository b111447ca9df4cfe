"""The codec of the Open Inference Protocol: what it gives, and one line for everything that is wrong."""

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny_tasks import _tasks
from zoo.errors import InvalidFileError, UsageError
from zoo.run.serve import protocol

TASKS = _tasks()
IMAGE = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)


def body(*inputs: dict, binary: bytes = b"", **fields: object) -> tuple[bytes, str]:
    text = json.dumps({"inputs": list(inputs), **fields}).encode()
    return text + binary, str(len(text))


def image(**changes: object) -> dict:
    entry = {"name": "image", "shape": [2, 8, 8, 1], "datatype": "UINT8", "data": IMAGE.reshape(-1).tolist()}
    return {key: value for key, value in (entry | changes).items() if value is not None}


def binary_image(size: object = 128, **changes: object) -> dict:
    return image(data=None, parameters={"binary_data_size": size}, **changes)


def decode(*inputs: dict, task: str = "encode", binary: bytes = b"", **fields: object) -> protocol.Request:
    data, length = body(*inputs, binary=binary, **fields)
    return protocol.decode(data, length, task, TASKS[task])


def test_json_nested_and_binary_give_the_same_array():
    for request in (
        decode(image()),
        decode(image(data=IMAGE.tolist())),
        decode(binary_image(), binary=IMAGE.tobytes()),
        decode({"name": "image", "shape": [2, 8, 8, 1], "datatype": "UINT8", "data": IMAGE.tolist()}, id="x"),
    ):
        assert (request.inputs["image"] == IMAGE).all() and request.inputs["image"].dtype == np.uint8


def test_several_binary_inputs_follow_each_other():
    tokens, size = np.array([[[1, 2], [3, 0]]]), np.array([8, 8])
    request = decode(
        {"name": "size", "shape": [2], "datatype": "INT64", "parameters": {"binary_data_size": 16}},
        {"name": "tokens", "shape": [1, 2, 2], "datatype": "INT64", "parameters": {"binary_data_size": 32}},
        task="decode",
        binary=size.tobytes() + tokens.tobytes(),
    )
    assert (request.inputs["tokens"] == tokens).all() and (request.inputs["size"] == size).all()


def test_defaults_are_filled_in_and_seeds_drawn():
    request = decode({"name": "label", "shape": [3], "datatype": "INT64", "data": [0, 1, 2]}, task="generate")
    assert request.inputs["steps"] == 20 and request.inputs["seed"].shape == (3,)


def test_a_label_may_be_a_name_in_json_and_binary():
    names = [b"Shirt", b"Ankle boot"]
    packed = b"".join(len(name).to_bytes(4, "little") + name for name in names)
    label = {"name": "label", "shape": [2], "datatype": "BYTES"}
    for request in (
        decode(label | {"data": ["Shirt", "Ankle boot"]}, task="generate"),
        decode(label | {"parameters": {"binary_data_size": len(packed)}}, task="generate", binary=packed),
    ):
        assert request.inputs["label"].tolist() == [0, 2]


BAD = {
    "not JSON": ((b"{", None), "the request is not one of the protocol: Input data was truncated"),
    "not an object": ((b"[1]", None), "the request is not one of the protocol: Expected `object`, got `array`"),
    "not UTF-8": ((b'{"inputs": [], "id": "\xff"}', None), "the request is not one of the protocol"),
    "deep": ((b'{"inputs": [], "x": ' + b"[" * 10**5, None), "the request is not one of the protocol"),
    "no inputs": ((b"{}", None), "the request is not one of the protocol: Object missing required field `inputs`"),
    "an id that is a number": (body(image(), id=1), "Expected `str`, got `int` - at `$.id`"),
    "a header length that is none": ((b"{}", "-1"), "Inference-Header-Content-Length is '-1'"),
    "a header length beyond the body": ((b"{}", "3"), "is 3, and the body has 2 bytes"),
    "an unknown datatype": (body(image(datatype="INT4")), "image has the datatype 'INT4'; there are BOOL, UINT8"),
    "another datatype": (body(image(datatype="INT64")), "image is int64; pictures are uint8, 0 .. 255"),
    "a negative shape": (body(image(shape=[2, -8, -8, 1])), "has the shape [2, -8, -8, 1]; lengths must be 0 .. 2147"),
    "a huge shape": (body(image(shape=[2**40])), "lengths must be 0 .. 2147483647"),
    "many huge lengths": (body(image(shape=[2**30] * 16)), "image has 128 values; the shape"),
    "a shape of floats": (body(image(shape=[2.5, 8, 8, 1])), "Expected `int`, got `float` - at `$.inputs[0].shape[0]`"),
    "another shape": (body(image(shape=[2, 8, 9, 1])), "image has 128 values; the shape [2, 8, 9, 1] has 144"),
    "a wrong rank": (body(image(shape=[128])), "image has the shape [128]; it must be [batch, height, width, 1]"),
    "nothing": (body(image(shape=[0, 8, 8, 1], data=[])), "image is empty (batch is 0)"),
    "strings for numbers": (body(image(data=["1"] * 128)), "image has values that are not uint8"),
    "booleans for numbers": (body(image(data=[True] * 128)), "image has values that are not uint8"),
    "floats for integers": (body(image(data=[1.0] * 128)), "image has values that are not uint8"),
    "null": (body(image(data=[None] * 128)), "image has values that are not uint8"),
    "too large": (body(image(data=[256] * 128)), "image has values from 256 to 256, which do not fit into uint8"),
    "far too large": (body(image(data=[10**30] * 128)), "image has values that are not uint8"),
    "ragged": (body(image(data=[[1, 2], [3]])), "image has rows of different lengths"),
    "no data": (body(image(data=None)), "image has no list of data, and no binary_data_size"),
    "data and bytes": (body(image(parameters={"binary_data_size": 1}), binary=b"x"), "both data and binary_data_size"),
    "too few bytes": (body(binary_image(127), binary=bytes(127)), "image has 127 bytes; UINT8 [2, 8, 8, 1] has 128"),
    "fewer than stated": (body(binary_image(), binary=bytes(127)), "binary_data_size of 128; 127 bytes are left"),
    "bytes left over": (body(binary_image(), binary=bytes(129)), "1 bytes after the JSON belong to no input"),
    "a size that is text": (body(binary_image("128"), binary=bytes(128)), "image has a binary_data_size of 128;"),
    "a size that is true": (body(binary_image(True), binary=bytes(128)), "image has a binary_data_size of True"),
    "a negative size": (body(binary_image(-1), binary=bytes(128)), "image has a binary_data_size of -1"),
    "twice": (body(image(), image()), "the input image is there twice"),
    "an unknown input": (body(image(name="imag")), "encode has no input 'imag'; it takes image; did you mean 'image'?"),
    "a missing input": (body(), "encode needs image: uint8 [batch, height, width, 1]"),
    "an unknown output": (body(image(), outputs=[{"name": "code"}]), "has no output 'code'; it gives tokens, size"),
    "an output twice": (body(image(), outputs=[{"name": "size"}] * 2), "the output size is asked for twice"),
    "classification": (
        body(image(), outputs=[{"name": "size", "parameters": {"classification": 2}}]),
        "the output size has the parameter classification: classes are not ranked here",
    ),
    "shared memory": (
        body(image(parameters={"shared_memory_region": "x"})),
        "the input image has the parameter shared_memory_region: there is no shared memory",
    ),
    "a flag that is text": (
        body(image(), parameters={"binary_data_output": "yes"}),
        "the parameter binary_data_output must be true or false",
    ),
    "too small a picture": (
        body(image(shape=[1, 2, 2, 1], data=[0] * 4)),
        "image is 2x2 pixels; it must be at least 8x8",
    ),
    "a picture in bytes that is none": (
        body({"name": "image", "shape": [1], "datatype": "BYTES", "data": ["aGVsbG8="]}),
        "image is not a picture",
    ),
    "a path": (
        body({"name": "image", "shape": [1], "datatype": "BYTES", "data": ["/etc/passwd"]}),
        "image is not base64",
    ),
}  # fmt: skip


@pytest.mark.parametrize("request_, says", BAD.values(), ids=BAD)
def test_what_is_wrong_is_one_line(request_, says):
    with pytest.raises((UsageError, InvalidFileError)) as caught:
        protocol.decode(*request_, "encode", TASKS["encode"])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_elements_with_wrong_lengths_are_refused():
    label = {"name": "label", "shape": [2], "datatype": "BYTES"}
    for packed in (b"", b"\1", b"\5\0\0\0Shi", b"\1\0\0\0a", b"\1\0\0\0a" * 3, b"\xff\xff\xff\xff"):
        with pytest.raises(UsageError, match="label is BYTES: its bytes are not 2 elements"):
            decode(label | {"parameters": {"binary_data_size": len(packed)}}, task="generate", binary=packed)


OUTPUTS = {"tokens": np.arange(8).reshape(2, 2, 2) % 4, "size": np.array([8, 8])}


def test_an_answer_in_json():
    content, headers = protocol.encode(decode(image(), id="seven"), "m.encode", 3, OUTPUTS)
    assert headers == {"Content-Type": "application/json"}
    assert json.loads(content) == {
        "model_name": "m.encode", "model_version": "3", "id": "seven",
        "outputs": [
            {"name": "tokens", "datatype": "INT64", "shape": [2, 2, 2], "data": [0, 1, 2, 3, 0, 1, 2, 3]},
            {"name": "size", "datatype": "INT64", "shape": [2], "data": [8, 8]},
        ],
    }  # fmt: skip


def test_an_answer_in_bytes_and_json():
    wanted = [{"name": "size", "parameters": {"binary_data": False}}, {"name": "tokens"}]
    request = decode(image(), outputs=wanted, parameters={"binary_data_output": True})
    content, headers = protocol.encode(request, "m.encode", 3, OUTPUTS)
    length = int(headers[protocol.HEADER_LENGTH])
    size, tokens = json.loads(content[:length])["outputs"]
    assert size["data"] == [8, 8] and tokens["parameters"] == {"binary_data_size": 64}
    assert content[length:] == OUTPUTS["tokens"].astype("<i8").tobytes()


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3))
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image", "tokens", "size", "label", "seed", "steps", "guidance"]) | st.text(),
        "shape": st.lists(st.integers(-2, 9), max_size=4) | JSON,
        "datatype": st.sampled_from([*protocol.DTYPES, "BYTES"]) | JSON,
    },
    optional={
        "data": st.lists(st.integers(0, 255), max_size=64) | JSON,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 70) | JSON}) | JSON,
    },
)
REQUESTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=4) | JSON},
    optional={
        "id": st.text() | JSON,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["size", "image"]) | JSON})) | JSON,
        "parameters": JSON,
    },
)


@pytest.mark.slow
@settings(max_examples=300)
@given(task=st.sampled_from(sorted(TASKS)), asked=REQUESTS, binary=st.binary(max_size=80), shift=st.integers(-3, 3))
def test_no_request_is_more_than_refused(task, asked, binary, shift):
    text = msgspec.json.encode(asked)
    for data, length in ((text + binary, str(len(text) + shift)), (text, None)):
        try:
            request = protocol.decode(data, length, task, TASKS[task])
        except (UsageError, InvalidFileError) as e:
            assert "\n" not in str(e)
        else:
            assert request.inputs.keys() == TASKS[task].inputs.keys()


@given(data=st.binary(max_size=200), length=st.none() | st.text(max_size=5) | st.integers(0, 200).map(str))
def test_no_bytes_are_more_than_refused(data, length):
    with pytest.raises((UsageError, InvalidFileError)):
        protocol.decode(data, length, "encode", TASKS["encode"])


@given(arrays=st.lists(st.integers(0, 3), min_size=4, max_size=4), binary=st.booleans())
def test_what_is_encoded_is_decoded_again(arrays, binary):
    """Tokens out of one answer are the next request's input, byte for byte."""
    outputs = {"tokens": np.array(arrays).reshape(1, 2, 2), "size": np.array([8, 8])}
    asked = decode(image(), parameters={"binary_data_output": binary})
    content, headers = protocol.encode(asked, "m.encode", 1, outputs)
    length = int(headers.get(protocol.HEADER_LENGTH, len(content)))
    again = json.dumps({"inputs": json.loads(content[:length])["outputs"]}).encode()
    request = protocol.decode(again + content[length:], str(len(again)), "decode", TASKS["decode"])
    assert all((request.inputs[name] == array).all() for name, array in outputs.items())
