import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_tasks import _tasks
from zoo.errors import InvalidFileError
from zoo.hookspecs import Port, Task
from zoo.media import tensors
from zoo.media.files import InputFile
from zoo.media.tensors import read_npy
from zoo.ports.tokens import TOKENS_FILE, WHOLE, read_tokens

DECODE = _tasks()["decode"]
DIGEST, OTHER = "a" * 64, "b" * 64
TOKENS = np.arange(4).reshape(1, 2, 2)
MADE_BY = {"digest": DIGEST, "model": "studio:1"}


def read(data: bytes, task: Task = DECODE, digest: str = DIGEST) -> tuple[dict[str, np.ndarray], list[str]]:
    notes: list[str] = []
    return read_tokens(InputFile("t", data, ""), task, digest, "studio:1", notes.append), notes


def refused(data: bytes, task: Task = DECODE, digest: str = DIGEST) -> str:
    with pytest.raises(InvalidFileError) as caught:
        read(data, task, digest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def npy(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def test_a_tokens_file_gives_back_tokens_and_size():
    arrays = {"tokens": TOKENS, "size": np.array([7, 8])}
    back, notes = read(TOKENS_FILE.encode(arrays, MADE_BY, ".safetensors"))
    assert notes == [] and all((back[name] == arrays[name]).all() for name in arrays)


def test_another_model_s_tokens_are_refused():
    data = TOKENS_FILE.encode({"tokens": TOKENS, "size": np.array([7, 8])}, MADE_BY, ".safetensors")
    assert refused(data, digest=OTHER) == (
        "t contains tokens of studio:1 (aaaaaaaaaaaa…); studio:1 (bbbbbbbbbbbb…) cannot decode another model's tokens"
    )


def test_a_plain_array_has_the_padded_size_and_says_so():
    back, notes = read(TOKENS_FILE.encode({"tokens": TOKENS, "size": np.array([7, 8])}, MADE_BY, ".npy"))
    assert (back["tokens"] == TOKENS).all() and back["size"].tolist() == [WHOLE, WHOLE]
    assert notes == ["t does not store the picture's size: the picture includes the padding"]


def test_safetensors_of_another_program_are_taken_and_said(tmp_path: Path):
    tensors.save(tmp_path / "x", {"tokens": TOKENS})
    back, notes = read((tmp_path / "x").read_bytes())
    assert (back["tokens"] == TOKENS).all() and len(notes) == 2
    assert notes[0] == "t does not say which model made its tokens: assuming studio:1"


def test_levels_are_all_needed(tmp_path: Path):
    port = Port(kind="tokens", dtype="int64", shape=("batch", "rows", "columns"))
    task = Task(summary="x", inputs={"top": port, "bottom": port}, outputs={})
    tensors.save(tmp_path / "x", {"top": TOKENS})
    assert refused((tmp_path / "x").read_bytes(), task) == "t has no tensor bottom; it has top"
    assert refused(npy(TOKENS), task) == "t contains one array; this model's tokens are top, bottom"


def test_files_that_are_no_tokens():
    assert refused(b"hello, world").startswith("t is not a valid safetensors file: ")
    assert refused(npy(TOKENS)[:30]).startswith("t cannot be read as .npy: ")
    metadata = {"zoo": "[1]"}
    for bad in ("[1]", "{", "[" * 100_000):
        from safetensors.numpy import save

        metadata["zoo"] = bad
        assert refused(save({"tokens": TOKENS}, metadata)) == "t: its metadata 'zoo' is not what zoo writes"


def test_nothing_is_unpickled():
    class Boom:
        def __reduce__(self):
            return (exec, ("raise SystemExit('unpickled')",))

    assert pickle.dumps(Boom())
    assert "allow_pickle" in refused(npy(np.array([Boom()], dtype=object), allow_pickle=True))


def test_a_header_that_claims_more_than_the_file_holds_is_one_line():
    data = npy(TOKENS).replace(b"(1, 2, 2), }", b"(10**9,2), }").replace(b"10**9", b"99999")
    with pytest.raises(InvalidFileError, match="cannot be read as .npy"):
        read_npy(InputFile("t", data, ""))
