from pathlib import Path

import pytest

from zoo.errors import StoreError
from zoo.system.files import FilesTogether


def test_files_written_together_appear_whole_and_at_the_latest_at_the_end(tmp_path: Path):
    (tmp_path / "old").write_bytes(b"old")
    with FilesTogether(seconds=60) as files:
        for name in ("old", "new"):
            files.write(tmp_path / name, name.encode() * 2)
        assert (tmp_path / "old").read_bytes() == b"old" and not (tmp_path / "new").exists()
        files.commit()
        assert (tmp_path / "new").read_bytes() == b"newnew"
        files.write(tmp_path / "last", b"last")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "old": b"oldold",
        "new": b"newnew",
        "last": b"last",
    }


def test_files_written_together_stay_if_the_block_fails(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), FilesTogether() as files:
        files.write(tmp_path / "x", b"x")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    with pytest.raises(StoreError, match="cannot write .*none.x: No such file or directory"), FilesTogether() as files:
        files.write(tmp_path / "none" / "x", b"x")


def test_long_names_do_not_share_a_temporary_file(tmp_path: Path):
    names = ["n" * 250 + end for end in ("1.png", "2.png")]  # 255 bytes, the most that a name has
    with FilesTogether(seconds=60) as files:
        for name in names:
            files.write(tmp_path / name, name[-5:].encode())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {n: n[-5:].encode() for n in names}


def test_a_file_that_cannot_get_its_name_does_not_stop_the_others(tmp_path: Path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(StoreError, match="cannot write .*taken: Is a directory"), FilesTogether(seconds=60) as files:
        for name in ("taken", "free"):
            files.write(tmp_path / name, name.encode())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["free", "taken"]
