"""`zoo bundle` and `zoo add`: models in a tar, and tars that somebody has made up."""

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from tests import tiny
from tests.cli.commands import zoo
from zoo.store import catalogue
from zoo.store import check_apart as apart
from zoo.store.store import Store


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A store with lab/tiny:1, and `models.tar` with it; then an empty store."""
    monkeypatch.setattr("zoo.plugins.registries", list, raising=False)
    monkeypatch.setattr(apart, "check_apart", lambda folder: [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "first"))
    tiny.registry(tmp_path / "lab", tiny.bundle(tmp_path / "b"))
    catalogue.add("lab", str(tmp_path / "lab"))
    assert zoo("pull", "lab/tiny").code == 0 and zoo("bundle", "lab/tiny", "-o", "models.tar").code == 0
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "second"))
    return tmp_path


def members(file: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(file) as tar:
        return [(one, tar.extractfile(one).read()) for one in tar]


def made(changed: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    file = Path("changed.tar")
    with tarfile.open(file, mode) as tar:
        for info, data in changed:
            tar.addfile(info, io.BytesIO(data))
    return file


def info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size, found.type, found.linkname = size, kind, link
    return found


def refused(file: object, code: int, reason: str) -> None:
    outcome = zoo("add", file)
    assert outcome.code == code and reason in outcome.err and outcome.err.count("\n") == 1, outcome.err
    assert Store().installed() == []
    left = [path for path in Path("second").rglob("*") if path.is_file() and path.name != "model.yaml"]
    assert not [path for path in left if "add" in path.name or path.parent.name.startswith(".")], left


def test_models_go_to_another_machine(work):
    first = (work / "models.tar").read_bytes()
    done = zoo("add", "models.tar")
    assert done.code == 0 and "added lab/tiny:1" in done.err
    (one,) = Store().installed()
    assert str(one) == "lab/tiny:1" and Store().verify(one) == []
    assert zoo("add", "models.tar").code == 0
    assert zoo("bundle", "tiny", "-o", "again.tar").code == 0
    assert (work / "again.tar").read_bytes() == first


def test_what_is_not_in_the_store_or_is_there_already(work):
    assert zoo("bundle", "tiny", "-o", "x.tar").code == 3 and not (work / "x.tar").exists()
    zoo("add", "models.tar")
    assert zoo("bundle", "tiny", "-o", "models.tar").code == 2
    assert zoo("bundle", "tiny", "lab/tiny", "-o", "x.tar").code == 2


HOSTILE = {
    "parent": info("../evil"), "absolute": info("/tmp/evil"), "inside parent": info("lab/../../evil"),
    "link": info("lab/models/tiny/1/README.md", 0, tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": info("lab/models/tiny/1/README.md", 0, tarfile.LNKTYPE, "lab/registry.yaml"),
    "device": info("lab/models/tiny/1/README.md", 0, tarfile.CHRTYPE),
    "pipe": info("lab/models/tiny/1/README.md", 0, tarfile.FIFOTYPE), "folder": info("lab", 0, tarfile.DIRTYPE),
    "another file": info("lab/models/tiny/1/more"), "another list": info("lab/registry.yaml"),
    "escape": info("lab/\x1b[31m"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("at", [0, 1, None], ids=["first", "second", "last"])
def test_members_that_must_not_be_taken_out(work, what, at):
    given = members(work / "models.tar")
    given.insert(len(given) if at is None else at, (HOSTILE[what], b""))
    refused(made(given), 4, "changed.tar: ")
    assert not (work / "evil").exists() and not Path("/tmp/evil").exists()


def test_bombs(work):
    given = members(work / "models.tar")
    refused(made(given, "w:gz"), 4, "is not a tar that `zoo bundle` writes")
    large = [
        (info(one.name, one.size + 1), data + b"\0") if one.name.endswith(".onnx") else (one, data)
        for one, data in given
    ]
    refused(made(large), 4, "has another size")
    text = given[0][1].replace(b"size: ", b"size: 9", 1)
    refused(made([(info("lab/registry.yaml", len(text)), text), *given[1:]]), 4, "")
    sparse = info("lab/models/tiny/1/README.md", 0, tarfile.GNUTYPE_SPARSE)
    refused(made([given[0], (sparse, b""), *given[1:]]), 4, "")


def test_damage_and_other_files(work):
    whole = (work / "models.tar").read_bytes()
    for end in (0, 100, 512, 5000):
        Path("cut.tar").write_bytes(whole[:end])
        refused("cut.tar", 4, "cut.tar")
    flipped = whole.replace(b"Doubles every pixel.\n", b"Trebles every pixel.\n")
    Path("flipped.tar").write_bytes(flipped)
    refused("flipped.tar", 5, "README.md")
    given = members(work / "models.tar")
    refused(made(given[:-1]), 4, "has no lab/models/tiny/1/")
    refused(work, 4, "is a folder")
    refused("nothing.tar", 3, "nothing.tar")


def test_a_version_that_had_other_bytes_here_is_refused(work):
    tiny.registry(work / "other", tiny.bundle(work / "b2", seed=9))
    catalogue.add("lab", str(work / "other"))
    assert zoo("pull", "lab/tiny").code == 0
    outcome = zoo("add", "models.tar")
    assert outcome.code == 5 and "had the digest" in outcome.err
    shutil.rmtree("second")
