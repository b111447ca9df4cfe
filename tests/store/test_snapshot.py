"""The bytes that were hashed are the bytes that run, whatever happens to the folder meanwhile."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import zoo
from tests import tiny
from zoo.errors import IntegrityError, StoreError
from zoo.formats import fields
from zoo.formats import manifest as manifests
from zoo.store import snapshot
from zoo.store.locate import locate

PICTURE = np.full((1, 4, 5, 1), 7, np.uint8)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path):
    return tiny.bundle(tmp_path / "tiny", ballast=3 << 20)


def swap(folder, end: threading.Event) -> None:
    """Swaps the weights for others of the same size, and back, as often as possible."""
    weights = folder / "model.safetensors"
    right = weights.read_bytes()
    wrong = bytearray(right)
    offset, length = tiny.tensor_range(weights, "scale")
    wrong[offset : offset + length] = np.float32(9).tobytes()
    while not end.is_set():
        for data in (bytes(wrong), right):
            weights.with_name("new").write_bytes(data)
            weights.with_name("new").rename(weights)


def test_weights_swapped_meanwhile_never_run(folder):
    """Every run computes with the hashed weights or is refused; there must be some of either."""
    end = threading.Event()
    thread = threading.Thread(target=swap, args=(folder, end))
    thread.start()
    ran = refused = 0
    try:
        for _ in range(200):
            try:
                model = zoo.load(str(folder), "cpu")
            except IntegrityError as e:
                assert "model.safetensors does not match its SHA-256" in str(e)
                refused += 1
                continue
            assert (model.double(image=PICTURE)["doubled"] == 14).all()
            ran += 1
            if ran > 20 and refused > 20:
                break
    finally:
        end.set()
        thread.join()
    assert ran and refused


TRUNCATED = """
import os, sys
import numpy as np, zoo
model = zoo.load(sys.argv[1], "cpu", isolated=False)
model.session("double")
for name in os.listdir(sys.argv[1]):
    os.truncate(os.path.join(sys.argv[1], name), 0)
print(model.double(image=np.full((1, 4, 5, 1), 7, np.uint8))["doubled"].max())
"""


def test_a_folder_truncated_under_a_loaded_model_is_harmless(folder):
    """Weights are mapped; where they are cut, a read of them is SIGBUS."""
    done = subprocess.run([sys.executable, "-c", TRUNCATED, folder], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "14\n"), done.stderr


def test_the_copy_is_private_and_read_only(folder):
    bundle = locate(str(folder))
    assert bundle.folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o222 == 0 for path in bundle.folder.iterdir() if path.name != "model.yaml")


def test_the_manifest_that_was_hashed_is_the_one_that_is_copied(folder):
    data = (folder / "model.yaml").read_bytes()
    files = manifests.parse(data, "").files
    (folder / "model.yaml").write_bytes(data + b"# another\n")
    assert (snapshot.Snapshot(folder, data, files, "tiny").folder / "model.yaml").read_bytes() == data


@pytest.mark.parametrize("kind", ["missing", "a link", "a link to the same", "a folder", "a pipe", "shorter", "longer"])
def test_odd_files_are_one_line_and_leave_nothing(folder, home, kind):
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    same = folder.with_name("same")
    same.write_bytes(data)
    make = {
        "a link to the same": lambda: weights.symlink_to(same),
        "missing": lambda: None, "a link": lambda: weights.symlink_to(folder / "README.md"), "a folder": weights.mkdir,
        "a pipe": lambda: os.mkfifo(weights), "shorter": lambda: weights.write_bytes(data[:-1]),
        "longer": lambda: weights.write_bytes(data + b"x"),
    }  # fmt: skip
    make[kind]()
    with pytest.raises(
        IntegrityError, match=r"model\.safetensors (is missing|is not a plain file|has [0-9,]+ bytes; the)"
    ):
        locate(str(folder))
    assert list((home / "running").iterdir()) == []


def test_what_is_there_instead_of_a_file_is_named(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 9\n")
    with pytest.raises(IntegrityError, match="has [0-9]+ bytes; the manifest says [0-9,]+; it is a git-lfs pointer: "):
        locate(str(folder))


def test_a_file_that_grows_is_not_copied_for_ever(folder, monkeypatch):
    """Its size was right when it was opened."""
    written = []
    write = snapshot._write
    monkeypatch.setattr(snapshot, "_write", lambda copy, block: written.append(len(block)) or write(copy, block))
    monkeypatch.setattr(snapshot, "_reflink", lambda source, target: False)
    weights = folder / "model.safetensors"
    expected = fields.describe_file(weights)
    with weights.open("ab") as file:
        file.truncate(expected.size + (64 << 20))
    status = os.stat_result((0o100644, 0, 0, 1, 0, 0, expected.size, 0, 0, 0))
    monkeypatch.setattr(snapshot.os, "fstat", lambda _: status)
    wrong = snapshot._copy(weights, folder / "copy", expected)
    assert wrong.startswith("does not match its SHA-256") and sum(written) <= expected.size + snapshot.BLOCK


KILLED = """
import os, sys
from zoo.store.locate import locate
bundle = locate(sys.argv[1])
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_removed_and_what_runs_stays(folder, home):
    subprocess.run([sys.executable, "-c", KILLED, folder])
    [left] = (home / "running").iterdir()
    first = locate(str(folder))
    second = locate(str(folder))
    assert (
        {path.name for path in (home / "running").iterdir()} == {first.folder.name, second.folder.name} != {left.name}
    )


def test_a_forked_child_leaves_its_parents_copy(folder):
    bundle = locate(str(folder))
    if not (pid := os.fork()):
        bundle.snapshot._finalizer()
        os._exit(0)
    os.waitpid(pid, 0)
    assert (bundle.folder / "model.safetensors").is_file()


def test_without_a_store_the_copy_is_in_the_temporary_folder(folder, home, tmp_path, monkeypatch):
    home.write_text("a file")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(snapshot.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    assert locate(str(folder)).folder.parent == tmp_path / "tmp"


def test_no_space_for_the_copy_is_one_line(folder, home, monkeypatch):
    def full(copy, block):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot, "_write", full)
    monkeypatch.setattr(snapshot, "_reflink", lambda source, target: False)
    with pytest.raises(StoreError, match="cannot be copied to .*running to run it: No space left on device"):
        locate(str(folder))
    assert list((home / "running").iterdir()) == []
