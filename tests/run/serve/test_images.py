"""OpenAI's way to ask for pictures, with its own client, unchanged."""

import base64
import io
import time

import numpy as np
import openai
import pytest
from PIL import Image

from tests import tiny

from .server import serving
from .sketch import pixel, sketch

pytestmark = pytest.mark.slow

DRAW = "/v1/images/generations"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("images")
    sketch(place / "sketch")
    tiny.bundle(place / "tiny")
    return place


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder, folder / "sketch", folder / "tiny") as running:
        yield running


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


def pixels(coded: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))))


def test_a_picture_for_a_prompt(client):
    made = client.images.generate(model="sketch", prompt="a red apple", extra_body={"seed": 3})
    assert (pixels(made.data[0].b64_json) == pixel("a red apple", 3, 20)).all()
    assert (made.size, made.output_format, made.created > 10**9) == ("8x8", "png", True)
    assert made.data[0].url is None


def test_several_have_seeds_that_follow_each_other(client):
    """What other clients send with it is taken: hints, `auto`, and null."""
    made = client.images.generate(
        prompt="cat", n=3, size="8x8", response_format="b64_json", user="me", quality="hd", style="vivid",
        background="auto", extra_body={"seed": 5, "steps": 4, "work": None},
    )  # fmt: skip
    assert [one.seed for one in made.data] == [5, 6, 7]
    for seed, one in zip((5, 6, 7), made.data):
        assert (pixels(one.b64_json) == pixel("cat", seed, 4)).all()


def test_a_seed_that_is_missing_is_drawn_and_told(client):
    first = client.images.generate(model="sketch:1", prompt="dog", n=2, size="auto").data
    again = client.images.generate(model="sketch", prompt="dog", extra_body={"seed": first[1].seed}).data
    assert again[0].b64_json == first[1].b64_json and first[0].seed + 1 == first[1].seed


def test_the_models(client, server):
    listed = client.models.list()
    assert [model.id for model in listed] == ["sketch:1", "tiny:1"] and listed.data[0].object == "model"
    assert client.models.retrieve("sketch").id == "sketch"
    assert client.models.retrieve("tiny:1").owned_by == "zoo"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("skech")
    assert server.get("/v1/models").json()["models"][0]["name"] == "sketch"


WRONG = {
    "no prompt": (400, {"prompt": None}, "prompt", "prompt must be a text"),
    "a list": (400, {"prompt": ["a"]}, "prompt", "prompt must be a text"),
    "too long": (400, {"prompt": "a" * 33}, "prompt", "is 33 bytes of UTF-8; this model takes at most 32"),
    "too many": (400, {"n": 11}, "n", "n is 11; it must be 1 .. 10"),
    "none": (400, {"n": 0}, "n", "n is 0; it must be 1 .. 10"),
    "half": (400, {"n": 1.5}, "n", "n is 1.5; it must be 1 .. 10"),
    "another size": (400, {"size": "1024x1024"}, "size", "size is 1024x1024; it must be 8x8 or auto"),
    "a size that is none": (400, {"size": {}}, "size", "size is {}; it must be 8x8 or auto"),
    "an address": (
        400, {"response_format": "url"}, "response_format",
        "response_format is url; it must be b64_json; pictures have no address here",
    ),
    "another format": (400, {"output_format": "webp"}, "output_format", "it must be png"),
    "a wrong seed": (400, {"seed": "x"}, "seed", "seed is x; it must be 0 .. "),
    "a large seed": (400, {"seed": 2**60}, "seed", "seed is 1152921504606846976; it must be 0 .. "),
    "two seeds for one": (400, {"seed": [1, 2]}, "seed", "2 values of seed for 1 pictures"),
    "too many steps": (400, {"steps": 51}, None, "steps is 51; it must be 1 .. 50"),
    "a field that is none": (400, {"step": 3}, "step", "there is no field 'step'; did you mean 'steps'?"),
    "the task's own name of the text": (400, {"text": "a"}, "text", "there is no field 'text'"),
    "no model": (400, {"model": 3}, "model", "model must be a name; those here that draw what a text says: sketch"),
    "a model that does not draw": (400, {"model": "tiny"}, "model", "tiny does not draw what a text says"),
    "an unknown model": (404, {"model": "skech"}, None, "there is no model 'skech'; did you mean 'sketch'?"),
    "an unknown version": (404, {"model": "sketch:9"}, None, "has no version '9' here"),
}  # fmt: skip


@pytest.mark.parametrize("status, changes, param, says", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_answered_in_its_form(server, status, changes, param, says):
    answer = server.post(DRAW, json={"model": "sketch", "prompt": "a"} | changes)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], "\n" in error["message"]) == (status, param, False), error
    assert says in error["message"] and error["type"] == "invalid_request_error"
    assert error["code"] == ("model_not_found" if status == 404 else None)


def test_its_client_says_what_is_wrong(client):
    with pytest.raises(openai.BadRequestError, match="size is 256x256; it must be 8x8 or auto") as found:
        client.images.generate(model="sketch", prompt="a", size="256x256")
    assert found.value.param == "size"
    with pytest.raises(openai.NotFoundError) as found:
        client.images.generate(model="dall-e-3", prompt="a")
    assert found.value.code == "model_not_found"


def test_other_wrong_requests_have_its_form_too(server):
    for body in (b"{", b"[]", b"\xff"):
        error = server.post(DRAW, data=body).json()["error"]
        assert error["message"].startswith("the body is not a JSON object") and error["param"] is None
    answer = server.post("/v1/images/edits", json={})
    assert answer.status_code == 404 and answer.json()["error"]["message"] == "Not Found"
    assert server.get(DRAW).json()["error"]["message"] == "Method Not Allowed"


def test_keys_a_deadline_and_what_may_be_repeated(folder):
    with serving(folder, folder / "sketch", "--seconds", 1, ZOO_SERVE_API_KEYS="right") as server:
        with openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError, match="send a key") as found:
                client.images.generate(model="sketch", prompt="a")
            assert found.value.code == "invalid_api_key"
        with openai.OpenAI(base_url=server.url + "/v1", api_key="right", max_retries=5) as client:
            with pytest.raises(openai.InternalServerError, match="it takes more than 1 s") as found:
                client.images.generate(model="sketch", prompt="a", extra_body={"work": 10**8})
            assert found.value.status_code == 504 and found.value.response.headers["X-Should-Retry"] == "false"
            # Its worker is being started again, and the next one may be late for that.
            while server.post(DRAW, json={"prompt": "a"}, headers={"Authorization": "Bearer right"}).status_code != 200:
                time.sleep(0.1)
            assert client.images.generate(model="sketch", prompt="a").data
