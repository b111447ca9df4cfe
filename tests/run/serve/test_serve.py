"""`zoo serve` as a process, asked over HTTP: the protocol, the plain way, and what each wrong request is answered."""

import base64
import gzip
import io
import json
import socket
import time

import numpy as np
import pytest
import requests
from PIL import Image

from tests import tiny
from tests.cli.commands import zoo
from tests.tiny_tasks import studio
from zoo.media import tensors
from zoo.run.serve.server import listen

from .server import SECONDS, serving

pytestmark = pytest.mark.slow

IMAGE = (np.arange(64, dtype=np.uint8) * 4).reshape(1, 8, 8, 1)
INFER = "/v2/models/studio.reconstruct/infer"
PLAIN = "/v1/models/studio/tasks/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("serve")
    studio(place / "studio")
    tiny.bundle(place / "one", "tiny", 1)
    tiny.bundle(place / "two", "tiny", 2, tasks=("double", "again"))
    tiny.bundle(place / "same", "tiny", 2, seed=1)
    tiny.bundle(place / "broken")
    (place / "broken" / "double.onnx").write_bytes(b"x")
    return place


@pytest.fixture(scope="module")
def server(folder):
    names = [folder / name for name in ("studio", "one", "two", "same", "broken")]
    with serving(folder, *names, "--max-body", "1") as running:
        yield running


def infer(server, body, path=INFER, **how):
    return server.post(path, data=body if isinstance(body, bytes) else json.dumps(body), **how)


def pixels(**changes):
    return {"name": "image", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": IMAGE.tolist()} | changes


def png(array=IMAGE[0, ..., 0]):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_request_without_id_and_content_type(server):
    answer = infer(server, {"inputs": [pixels()]})
    assert answer.status_code == 200 and answer.headers["Content-Type"] == "application/json"
    got = answer.json()
    assert (got["model_name"], got["model_version"], "id" in got) == ("studio.reconstruct", "1", False)
    assert got["outputs"][0]["data"] == IMAGE.reshape(-1).tolist()


def test_every_task_gives_its_golden_outputs(server, folder):
    """In JSON, and in binary and compressed: what is sent and what comes back are the golden cases' bytes."""
    golden = tensors.load(folder / "studio" / "golden.safetensors")
    datatypes = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}
    for task in ("reconstruct", "encode", "decode", "generate", "classify"):
        case = {key.split("/", 3)[3]: array for key, array in golden.items() if key.startswith(f"{task}/0/inputs/")}
        described = [{"name": n, "shape": list(a.shape), "datatype": datatypes[a.dtype.name]} for n, a in case.items()]
        for entry, array in zip(described, case.values()):
            entry["parameters"] = {"binary_data_size": array.nbytes}
        text = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
        body = gzip.compress(text + b"".join(array.tobytes() for array in case.values()))
        headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Encoding": "gzip"}
        answer = infer(server, body, f"/v2/models/studio.{task}/versions/1/infer", headers=headers)
        assert answer.status_code == 200, answer.text
        length = int(answer.headers["Inference-Header-Content-Length"])
        rest = answer.content[length:]
        for output in json.loads(answer.content[:length])["outputs"]:
            expected = golden[f"{task}/0/outputs/{output['name']}"]
            size = output["parameters"]["binary_data_size"]
            got = np.frombuffer(rest[:size], expected.dtype).reshape(output["shape"])
            np.testing.assert_allclose(got, expected, rtol=1e-6)
            rest = rest[size:]
        assert not rest


def test_it_says_what_it_is_and_has(server):
    assert server.get("/v2").json()["name"] == "zoo"
    assert server.get("/v2/health/live").status_code == server.get("/v2/health/ready").status_code == 200
    assert server.get("/v2/models/tiny.double").json() == {
        "name": "tiny.double", "versions": ["1", "2"], "platform": "zoo",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 1]}],
        "outputs": [{"name": "doubled", "datatype": "UINT8", "shape": [-1, -1, -1, 1]}],
    }  # fmt: skip
    assert server.get("/v2/models/tiny.again/versions/2/ready").json() == {"name": "tiny.again", "ready": True}
    config = server.get("/v2/models/studio.classify/config").json()
    assert config["output"][1] == {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [-1, 3]}
    (row,) = server.get("/v2/models/studio.reconstruct/stats").json()["model_stats"]
    assert row["name"] == "studio.reconstruct" and row["inference_count"] > 0


def test_versions_are_versions(server):
    body = {"inputs": [pixels()]}
    for path, version in (("", "2"), ("/versions/1", "1"), ("/versions/2", "2")):
        answer = infer(server, body, f"/v2/models/tiny.double{path}/infer").json()
        assert answer["model_version"] == version
        assert answer["outputs"][0]["data"] == np.minimum(2 * IMAGE.astype(int), 255).reshape(-1).tolist()


def test_a_model_that_does_not_load_leaves_the_others_alone(server, folder):
    log = server.log.read_text()
    assert f"{folder / 'same'} is not served: {folder / 'two'} and {folder / 'same'} are both tiny:2" in log
    assert f"Error: {folder / 'broken'} is not served: " in log
    rows = server.post("/v2/repository/index").json()
    broken = next(row for row in rows if row["name"] == str(folder / "broken"))
    assert broken["state"] == "UNAVAILABLE" and "double.onnx" in broken["reason"]
    ready = server.post("/v2/repository/index", data='{"ready": true}').json()
    assert [row["name"] for row in ready if row["name"].startswith("tiny")] == [
        "tiny.double", "tiny.double", "tiny.again"
    ]  # fmt: skip


WRONG = {
    "an unknown model": (404, "/v2/models/studio.reconstuct/infer", b"{}", {}, "did you mean 'studio.reconstruct'?"),
    "an unknown version": (404, "/v2/models/studio.encode/versions/9/infer", b"{}", {}, "has no version '9' here"),
    "an unknown address": (404, "/v2/x", b"", {}, "Not Found"),
    "not JSON": (400, INFER, b"{", {}, "the request is not one of the protocol"),
    "no body": (400, INFER, b"", {}, "the request is not one of the protocol"),
    "not gzip": (400, INFER, b"{}", {"Content-Encoding": "gzip"}, "the body is not gzip"),
    "cut short": (400, INFER, gzip.compress(b"{}")[:-9], {"Content-Encoding": "gzip"}, "cut short"),
    "a bomb": (413, INFER, gzip.compress(bytes(1 << 24)), {"Content-Encoding": "gzip"}, "more than 1.0 MB"),
    "an unknown coding": (415, INFER, b"{}", {"Content-Encoding": "br"}, "must be gzip, deflate or identity"),
    "too large": (413, INFER, bytes((1 << 20) + 1), {}, "the body has more than 1.0 MB"),
    "shared memory": (400, "/v2/systemsharedmemory/region/x/register", b"{}", {}, "has no systemsharedmemory"),
    "trace": (400, "/v2/trace/setting", b"{}", {}, "this server has no trace"),
    "log settings": (400, "/v2/logging", b"{}", {}, "this server has no logging"),
    "loading another": (404, "/v2/repository/models/x/load", b"", {}, "none of the models that this server"),
    "load parameters": (400, "/v2/repository/models/tiny/load", b'{"parameters": {"a": 1}}', {}, "takes no parameters"),
    "a list as an index": (400, "/v2/repository/index", b"[]", {}, "the body is not a JSON object"),
    "another page": (403, INFER, b"{}", {"Origin": "http://evil.example"}, "does not answer pages of other servers"),
    "another name": (403, INFER, b"{}", {"Host": "evil.example"}, "answers only on this machine"),
    "plain: no task": (404, PLAIN + "encod", b"{}", {}, "did you mean 'studio.encode'?"),
    "plain: not JSON": (400, PLAIN + "encode", b"{", {}, "the body is not a JSON object"),
    "plain: a list": (400, PLAIN + "encode", b"[]", {}, "the body is not a JSON object"),
    "plain: nothing": (400, PLAIN + "encode", b"", {}, "encode needs image"),
    "plain: another input": (400, PLAIN + "encode", b'{"picture": 1}', {}, "has no input 'picture'; it takes image"),
    "plain: a path": (400, PLAIN + "encode", b'{"image": "/etc/passwd"}', {}, "image is not base64"),
    "plain: base64 of no picture": (400, PLAIN + "encode", b'{"image": "aGk="}', {}, "image is not a picture"),
    "plain: a number": (400, PLAIN + "encode", b'{"image": 3}', {}, "image"),
    "plain: a class that is none": (400, PLAIN + "generate", b'{"label": "Boat"}', {}, "label"),
    "plain: out of range": (400, PLAIN + "generate", b'{"steps": 99}', {}, "steps is 99; it must be 1 .. 50"),
    "plain: an object": (400, PLAIN + "generate", b'{"steps": {}}', {}, "steps is dict"),
    "plain: another type": (415, PLAIN + "encode", b"x", {"Content-Type": "image/png"}, "send application/json"),
    "plain: no such answer": (406, PLAIN + "encode", b"{}", {"Accept": "image/png"}, "encode gives application/json"),
    "plain: a broken form": (
        400, PLAIN + "encode", b"x", {"Content-Type": "multipart/form-data; boundary=y"}, "the form cannot be read",
    ),
    "plain: a form without a boundary": (
        400, PLAIN + "encode", b"x", {"Content-Type": "multipart/form-data"}, "the form cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("status, path, body, headers, says", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_answered_in_one_line(server, status, path, body, headers, says):
    answer = server.post(path, data=body, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, "\n" in error) == (status, False) and says in error, (answer.status_code, error)


def test_a_method_that_is_none(server):
    assert server.get(INFER).status_code == 405


def test_unload_and_load(server):
    body = {"inputs": [pixels()]}
    assert server.post("/v2/repository/models/tiny.again/unload").status_code == 200
    answer = infer(server, body, "/v2/models/tiny.double/versions/2/infer")
    assert answer.status_code == 503 and answer.json()["error"] == "tiny.double is not loaded: it was unloaded"
    assert int(answer.headers["Retry-After"]) >= 1
    assert infer(server, body, "/v2/models/tiny.double/infer").json()["model_version"] == "1"
    assert server.post("/v2/repository/models/tiny.again/load").status_code == 200
    assert infer(server, body, "/v2/models/tiny.double/infer").json()["model_version"] == "2"


def test_a_picture_in_and_a_picture_out(server):
    answer = server.post(PLAIN + "reconstruct", files={"image": png()}, headers={"Accept": "image/png"})
    assert answer.status_code == 200 and answer.headers["Content-Type"] == "image/png"
    assert (np.asarray(Image.open(io.BytesIO(answer.content))) == IMAGE[0, ..., 0]).all()


def test_pictures_in_base64_and_as_lists(server):
    coded = base64.b64encode(png()).decode()
    for image in (coded, f"data:image/png;base64,{coded}", [coded, coded], IMAGE.tolist()):
        answer = server.post(PLAIN + "reconstruct", json={"image": image}).json()
        assert (answer["model"], answer["task"]) == ("studio:1", "reconstruct")
        pictures = [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(p)))) for p in answer["outputs"]["reconstruction"]
        ]
        assert len(pictures) == (2 if image == [coded, coded] else 1)
        assert all((picture == IMAGE[0, ..., 0]).all() for picture in pictures)


def test_labels_by_name_and_seeds_that_are_told(server):
    for how in (
        {"json": {"label": "Sneaker", "seed": 3}},
        {"files": {"label": (None, "Sneaker"), "seed": (None, "3")}},
    ):
        answer = server.post(PLAIN + "generate", **how).json()
        assert answer["seed"] == [3]
        pixel = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["outputs"]["image"][0]))))[0, 0]
        assert pixel == 31 * 3 + 7 + 20
    first = server.post(PLAIN + "generate", json={}).json()
    again = server.post(PLAIN + "generate", json={"seed": first["seed"]}).json()
    assert again == first


def test_the_models_and_their_openapi_document(server):
    models = {(m["name"], m.get("version")): m for m in server.get("/v1/models").json()["models"]}
    assert models["studio", 1]["tasks"]["encode"]["inputs"] == {"image": "uint8 [batch, height, width, 1]"}
    document = server.get("/openapi.json").json()
    post = document["paths"]["/v1/models/studio:1/tasks/generate"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == [] and schema["properties"]["label"]["oneOf"][1]["enum"][1] == "Sneaker"
    assert schema["properties"]["seed"]["oneOf"][0] == {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
    assert "image/png" in post["responses"]["200"]["content"]
    assert server.post("/v1/models/studio:1/tasks/generate", json={"label": 1}).status_code == 200


def test_headers_that_never_end_hold_up_nobody(server):
    """Garbage and slow headers: the connection is closed, and others are answered meanwhile."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as drip, socket.create_connection((host, int(port))) as garbage:
        garbage.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        assert garbage.recv(100).startswith(b"HTTP/1.1 400")
        drip.sendall(b"POST / HTTP/1.1\r\n")
        begin = time.monotonic()
        drip.settimeout(0.5)
        closed = False
        while not closed and time.monotonic() - begin < 40:
            assert infer(server, {"inputs": [pixels()]}).status_code == 200
            try:
                drip.sendall(b"X: y\r\n")
                closed = drip.recv(10) == b""
            except TimeoutError:
                pass
            except ConnectionError:
                closed = True
        assert closed and time.monotonic() - begin > 8


def test_keys(folder):
    (folder / "keys").write_text("first\nsecond\n")
    with serving(folder, folder / "one", "--api-key", folder / "keys", ZOO_SERVE_API_KEYS="third") as server:
        for key, status in (("first", 200), ("second", 200), ("third", 200), ("fir", 401), ("", 401)):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            answer = server.get("/v2/models/tiny.double", headers=headers)
            assert answer.status_code == status, key
        assert server.get("/v2").json()["error"] == "send a key: Authorization: Bearer KEY"
        assert server.get("/v2/health/ready").status_code == 200


def test_what_is_wrong_with_the_command(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = zoo("serve", folder / "one", "--port", port)
        assert (done.code, done.err) == (
            7, f"Error: cannot serve on 127.0.0.1, port {port}: Address already in use; choose another --port\n"
        )  # fmt: skip
    assert zoo("serve", folder / "one", folder / "one").err == f"Error: {folder / 'one'} is named twice\n"
    assert zoo("serve", folder / "nowhere", "--port", 0).code == 3
    for host in ("", "localhost.example", "::g", "256.0.0.1"):
        done = zoo("serve", folder / "one", "--host", host)
        assert (done.code, done.err) == (2, f"Error: --host is '{host}'; it must be an IP address\n")
    assert zoo("serve", folder / "one", "--seconds", "nan").code == 2
    (folder / "empty").write_text("\n")
    assert zoo("serve", folder / "one", "--api-key", folder / "empty").code == 2
    assert zoo("serve", folder / "one", "--host", "192.0.2.1", "--port", 0).code == 7
    done = zoo("serve", folder / "broken", "--port", 0)
    assert (done.code, done.err.count("\n")) == (5, 1), done.err


def test_requests_are_answered_while_a_large_one_arrives(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as large:
        large.sendall(f"POST {INFER} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000\r\n\r\n".encode())
        large.settimeout(SECONDS)
        assert large.recv(12) == b"HTTP/1.1 413"
    assert requests.get(server.url + "/v2/health/live", timeout=SECONDS).status_code == 200


def test_an_answer_does_not_wait_for_a_confirmation():
    """Without TCP_NODELAY, each request of a connection takes 40 ms longer."""
    with listen("127.0.0.1", 0) as sock, socket.create_connection(sock.getsockname()):
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
