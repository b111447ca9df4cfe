"""What a killed command was writing is removed by the next command that writes there, and by `zoo prune`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.store.prune import prune
from zoo.store.store import Store
from zoo.system import temporary
from zoo.system.files import FilesTogether, folder_beside, put_in_place, write_atomically
from zoo.system.temporary import UNFINISHED, LockedFolder

KILLED = """
import os, sys
from pathlib import Path
from zoo.system.files import folder_beside
with folder_beside(Path(sys.argv[1])) as folder:
    (folder / "sub").mkdir()
    (folder / "sub" / "weights").write_bytes(bytes(1000))
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The hidden folder of a killed command."""
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path / "out" / "e"]).returncode == -9
    [folder] = (tmp_path / "out").iterdir()
    assert folder.name.startswith(UNFINISHED) and (folder / "sub" / "weights").is_file()
    return folder


def test_what_a_killed_command_left_is_removed_by_the_next_that_writes_there(left: Path, home: Path):
    with folder_beside(left.with_name("other")) as running, folder_beside(left.with_name("e")) as folder:
        (folder / "x").write_bytes(b"x")
        put_in_place(folder, left.with_name("e"))
        assert running.is_dir()  # it is locked
    assert [path.name for path in left.parent.iterdir()] == ["e"]
    assert [path.read_bytes() for path in (home / "unfinished").iterdir()] == [os.fsencode(left)]


def test_prune_removes_what_a_killed_command_left(left: Path, home: Path):
    mine = left.with_name(f"{UNFINISHED}mine")  # nothing that zoo noted
    mine.mkdir()
    with folder_beside(home.with_name("elsewhere") / "e") as running:
        would = prune(Store(), dry_run=True)
        assert left.is_dir() and str(left) in would.paths and str(running) not in would.paths
        assert prune(Store(), dry_run=False) == would and would.bytes >= 1000
        assert not left.exists() and running.is_dir() and mine.is_dir()
    assert list((home / "unfinished").iterdir()) == [] and prune(Store(), dry_run=False).paths == ()


KILLED_IN_A_FILE = """
import os, sys
from pathlib import Path
from zoo.system.files import FilesTogether, write_atomically
if "together" in sys.argv:
    files = FilesTogether(seconds=60)
    files.write(Path(sys.argv[1]), bytes(1000))
else:
    os.fsync = lambda file: os.kill(os.getpid(), 9)
    write_atomically(Path(sys.argv[1]), bytes(1000))
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["one", "together"])
def test_what_a_killed_command_left_of_a_file_is_removed(tmp_path: Path, home: Path, how: str):
    def killed(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert subprocess.run([sys.executable, "-c", KILLED_IN_A_FILE, path, how]).returncode == -9
        assert [left.name.startswith(UNFINISHED) for left in path.parent.iterdir()] == [True]

    killed(tmp_path / "out" / "x.png")
    write_atomically(tmp_path / "out" / "y.png", b"y")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["y.png"]
    killed(home / "seen" / "lab" / "tiny")
    assert prune(Store(), dry_run=True) == (pruned := prune(Store(), dry_run=False)) and pruned.bytes == 1000
    assert list((home / "seen" / "lab").iterdir()) == []


def test_a_file_of_a_running_command_stays(tmp_path: Path, home: Path):
    with FilesTogether(seconds=60) as files:
        files.write(home.with_name("x.png"), b"x")
        write_atomically(tmp_path / "y.png", b"y")
        assert prune(Store(), dry_run=False).paths == ()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x.png": b"x", "y.png": b"y"}


@pytest.mark.parametrize("written", ["/", "relative", "", "\0", "/tmp"])
def test_a_note_names_nothing_but_an_unfinished_folder(tmp_path: Path, home: Path, written: str, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = [tmp_path / "relative", tmp_path / "kept"]
    for folder in kept:
        folder.mkdir()
    (home / "unfinished").mkdir(parents=True)
    for number, path in enumerate((written, str(tmp_path / "kept"))):
        (home / "unfinished" / str(number)).write_bytes(os.fsencode(path))
    prune(Store(), dry_run=False)
    assert all(folder.is_dir() for folder in kept) and Path("/tmp").is_dir()
    assert list((home / "unfinished").iterdir()) == []


def test_a_home_that_cannot_be_written_stops_nothing(tmp_path: Path, home: Path):
    home.write_text("a file")
    with folder_beside(tmp_path / "e") as folder:
        put_in_place(folder, tmp_path / "e")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "home"]


PROFILED = """
import os
from zoo.system.temporary import LockedFolder
folder = LockedFolder("zoo-profile-")
(folder.path / "call.json").touch()
os.kill(os.getpid(), 9)
"""


def test_a_folder_of_a_killed_worker_is_removed_by_the_next(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path))
    subprocess.run([sys.executable, "-c", PROFILED])
    [left] = tmp_path.glob("zoo-profile-*")
    running = LockedFolder("zoo-profile-")
    with LockedFolder("zoo-profile-") as folder:
        assert set(tmp_path.glob("zoo-profile-*")) == {running.path, folder} and left not in {running.path, folder}
    running.cleanup()
    assert list(tmp_path.glob("zoo-profile-*")) == []
