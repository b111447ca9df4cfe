"""`zoo batch`: what it takes and gives, that it goes on after any end with the same bytes, and what it refuses."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from tests.tiny_tasks import studio
from zoo.formats import manifest
from zoo.run.shards.shard import SHARDS

from .commands import zoo
from .test_run import error

NUMBER = 23


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return studio(tmp_path_factory.mktemp("batch") / "studio")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures in `in/`, of two sizes, some of them in a subfolder."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for number, picture in enumerate(pictures()):
        path = tmp_path / "in" / ("more" if number > 12 else "") / f"p{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return tmp_path


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (8, 12 if number < 15 else 8), dtype=np.uint8) for number in range(NUMBER)]


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def tree(folder: str | Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }


def shards(folder: str | Path = "out") -> list[Path]:
    return sorted((Path(folder) / SHARDS).iterdir())


def rows(folder: str | Path = "out") -> list[dict]:
    pq = pytest.importorskip("pyarrow.parquet")
    return [row for path in shards(folder) for row in pq.read_table(path).to_pylist()]


def batch(bundle: Path, *words: object, task: str = "reconstruct"):
    return zoo("batch", bundle, task, *words, "--workers", 1)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["parquet", "files", "tar"])
def test_each_input_is_in_the_outputs_once_in_the_order_of_the_listing(bundle: Path, form: str):
    outcome = batch(bundle, "in", "--out", "out", "--shard-size", 10, "--format", form)
    assert outcome.code == 0 and outcome.out == "out\n", outcome.err
    assert [path.name[:6] for path in shards()] == ["00000-", "00001-", "00002-"]
    names = [f"in/{'more/' if n > 12 else ''}p{n:02}.png" for n in range(NUMBER)]
    if form == "parquet":
        assert [row["file"] for row in rows()] == names
        made = [row["reconstruction"] for row in rows()]
    elif form == "files":
        files = sorted(path for folder in shards() for path in folder.iterdir())
        assert [path.name for path in files] == [f"{n:08}-p{n:02}.png" for n in range(NUMBER)]
        made = [path.read_bytes() for path in files]
    else:
        made = []
        for path in shards():
            with tarfile.open(path) as tar:
                made += [tar.extractfile(member).read() for member in tar]
    assert len(made) == NUMBER
    for data, picture in zip(made, pictures(), strict=True):
        assert (np.asarray(Image.open(io.BytesIO(data))) == picture).all()


@pytest.mark.slow
def test_parquet_tars_and_arrays_are_inputs(bundle: Path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = [png(picture) for picture in pictures()]
    structs = [{"bytes": data, "path": "x"} for data in files[:-1]] + [None]
    pq.write_table(pa.table({"label": list(range(NUMBER)), "image": structs}), "a.parquet", row_group_size=5)
    with tarfile.open("b.tar", "w") as tar:
        for number, data in enumerate(files):
            for name, content in ((f"x/{number}.png", data), (f"x/{number}.cls", b"1")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    np.save("c.npy", np.stack(pictures()[:15]))
    outcome = batch(bundle, "a.parquet", "b.tar", "c.npy", "--out", "out", "--shard-size", 7, "--max-errors", 1)
    assert outcome.code == 0, outcome.err
    made = {row["file"]: row["reconstruction"] for row in rows()}
    assert len(made) == NUMBER - 1 + NUMBER + 15
    for number, picture in enumerate(pictures()):
        for name in [f"a.parquet[{number}]"] * (number < NUMBER - 1) + [f"b.tar/x/{number}.png"]:
            assert (np.asarray(Image.open(io.BytesIO(made[name]))) == picture).all()
    assert [json.loads(line) for line in Path("out/errors.jsonl").read_text().splitlines()] == [
        {"file": "a.parquet[22]", "error": "a.parquet[22] has no bytes"}
    ]


@pytest.mark.slow
def test_an_input_that_fails_is_listed_and_the_others_are_made(bundle: Path):
    Path("in/bad.png").write_bytes(b"not a picture")
    Path("in/cut.png").write_bytes(Path("in/p00.png").read_bytes()[:60])
    assert error(batch(bundle, "in", "--out", "out"), 4) == "2 inputs failed; out/errors.jsonl names them"
    listed = [json.loads(line)["file"] for line in Path("out/errors.jsonl").read_text().splitlines()]
    assert listed == ["in/bad.png", "in/cut.png"] and len(rows()) == NUMBER
    assert batch(bundle, "in", "--out", "new", "--max-errors", 2).code == 0
    said = error(batch(bundle, "in", "--out", "few", "--max-errors", 1), 4)
    assert said == "2 inputs failed, so it stopped; few/errors.jsonl names them"
    assert batch(bundle, "in/bad.png", "--out", "none", "--max-errors", 1).code == 0  # a shard without rows
    pq = pytest.importorskip("pyarrow.parquet")
    [full], [empty] = (pq.read_schema(shards(folder)[0]) for folder in ("out",)), shards("none")
    assert pq.read_table(empty).num_rows == 0 and pq.read_schema(empty).equals(full)


@pytest.mark.slow
def test_what_is_there_is_kept_and_other_options_model_or_inputs_are_refused(bundle: Path, tmp_path: Path):
    words = ("in", "--out", "out", "--shard-size", 10)
    assert batch(bundle, *words).code == 0
    before = {path: path.stat().st_mtime_ns for path in shards()}
    shards()[1].unlink()
    outcome = batch(bundle, *words, "--resume")
    assert (outcome.code, "13 were there" in outcome.err) == (0, True)
    assert sum(path.stat().st_mtime_ns == when for path, when in before.items()) == 2
    assert error(batch(bundle, *words[:-1], 11), 2) == (
        "out was made with another shard size: 10, not 11; give another --out"
    )
    assert "out was made with another task: " in error(batch(bundle, *words, task="encode"), 2)
    assert "out was made with another invert: " in error(batch(bundle, *words, "--invert"), 2)
    assert "out was made with another inputs: " in error(batch(bundle, "in/more", *words[1:]), 2)
    other = studio(tmp_path / "other" / "studio")
    (other / "README.md").write_text("another card")
    read = manifest.read(other)
    files = dict(read.files) | {"README.md": manifest.describe_file(other / "README.md")}
    import msgspec

    (other / "model.yaml").write_bytes(manifest.dump(msgspec.structs.replace(read, files=files)))
    assert "out was made with another model: " in error(batch(other, *words), 2)
    Image.fromarray(pictures()[0]).save("in/p01.png")
    assert "was made of other inputs than those from in/p00.png on" in error(batch(bundle, *words), 2)
    Image.fromarray(pictures()[1]).save("in/p01.png")
    for number in range(13, NUMBER):
        Path(f"in/more/p{number}.png").unlink()
    Path("in/more").rmdir()
    assert "out/shards/0000" in error(batch(bundle, *words), 2)


def test_what_is_wrong_is_one_line_and_leaves_nothing(bundle: Path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"label": [1, 2], "name": ["a", "b"]}), "no.parquet")
    Path("odd.parquet").write_bytes(b"PAR1 but not really")
    with tarfile.open("cut.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add("in/p00.png")
    whole = Path("cut.tar").read_bytes()
    Path("cut.tar").write_bytes(whole[:600])
    Path("end.tar").write_bytes(whole[:1024])
    Path("no.tar").write_bytes(b"no tar" * 1000)
    Path("x.tar.gz").write_bytes(b"\x1f\x8b")
    Path("full").mkdir()
    Path("full/x").touch()
    before = set(Path().rglob("*"))
    for code, said, words in (
        (2, "no.parquet has no column with the bytes of files; --column names one", ["no.parquet"]),
        (2, "no.parquet has no column 'image'; it has label, name", ["no.parquet", "--column", "image"]),
        (2, "no.parquet: the column name has string; it must have the bytes of files (binary)",
         ["no.parquet", "--column", "name"]),
        (4, "odd.parquet is not a Parquet file that can be read", ["odd.parquet"]),
        (3, "none.parquet does not exist", ["none.parquet"]),
        (4, "cut.tar is cut short: it ends within in/p00.png", ["cut.tar"]),
        (4, "end.tar is cut short: a tar ends with a block of zeros", ["end.tar"]),
        (4, "no.tar is not a tar that can be read", ["no.tar"]),
        (2, "x.tar.gz is compressed as a whole", ["x.tar.gz"]),
        (2, "stdin cannot be read again to resume", ["-"]),
        (3, "no file matches x*.png", ["x*.png"]),
        (2, "Invalid value for '--format': 'zip'", ["in", "--format", "zip"]),
        (2, "--set step=…: reconstruct has no such option", ["in", "--set", "step=1"]),
    ):  # fmt: skip
        assert said in error(batch(bundle, *words, "--out", "out"), code), words
    assert "--out full is not empty" in error(batch(bundle, "in", "--out", "full"), 2)
    error(batch(bundle, "in", "--out", "out", task="nothing"), 3)
    assert "generate takes no files" in error(batch(bundle, "in", "--out", "out", task="generate"), 2)
    assert {path for path in Path().rglob("*") if path.parts[0] != "home"} <= before


@pytest.mark.slow
def test_pictures_of_several_sizes_are_not_one_array(bundle: Path):
    said = error(batch(bundle, "in", "--out", "out", "--format", "safetensors"), 2)
    assert "has different shapes or values within a shard" in said and not Path("out").exists()


def test_two_commands_do_not_work_on_one_folder(bundle: Path):
    assert batch(bundle, "in", "--out", "out").code == 0
    before = sorted(Path("out").rglob("*"))
    with FileLock("out/.zoo-batch.lock"):
        assert error(batch(bundle, "in", "--out", "out"), 7) == "another zoo batch works on out; wait for it"
    assert sorted(Path("out").rglob("*")) == before
    assert batch(bundle, "in", "--out", "out").code == 0


def begun(bundle: Path, *words: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "zoo", "batch", bundle, "reconstruct", "in", "--out", "killed", *words]
    return subprocess.Popen(list(map(str, command)), stdout=-3, stderr=-3, start_new_session=True)


def killed_at_random_moments(bundle: Path, kills: int, form: str) -> int:
    """Kills the command, or one of its processes, again and again; in how many runs a kill came in time."""
    Path("in/bad.png").write_bytes(b"not a picture")
    words = ("--shard-size", 2, "--format", form, "--workers", 2)
    start = time.monotonic()
    begun(bundle, *words).wait()
    seconds = time.monotonic() - start
    Path("killed").rename("whole")
    rng, hit = np.random.default_rng(int(time.time())), 0
    for _ in range(kills):
        process = begun(bundle, *words)
        try:
            process.wait(rng.uniform(0.2, 1) * seconds)
        except subprocess.TimeoutExpired:
            hit += 1
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        there = set(tree("killed")) if Path("killed").exists() else set()
        kept = {name for name in there if name.startswith(SHARDS) and ".zoo-unfinished" not in name}
        assert all(tree("killed")[name] == tree("whole")[name] for name in kept)
        if process.returncode == 4 and rng.random() < 0.8:  # it was done: some of it is to be made again
            for path in shards("killed")[:: int(rng.integers(1, 4))]:
                subprocess.run(["rm", "-r", path], check=True)
    assert begun(bundle, *words).wait() == 4
    assert tree("killed") == tree("whole")
    return hit


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "form"), [(3, "files"), (50, "parquet")])
def test_a_killed_command_goes_on_and_gives_the_same_bytes(bundle: Path, kills: int, form: str):
    assert killed_at_random_moments(bundle, kills, form) > 0


@pytest.mark.slow
def test_a_process_that_is_killed_costs_its_shard_only(bundle: Path):
    words = ("--shard-size", 1, "--workers", 1)
    process = begun(bundle, *words)
    while not list(Path("killed").glob("shards/*.parquet")):
        time.sleep(0.02)
    [child] = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(child), signal.SIGKILL)
    assert process.wait() == 0 and len(rows("killed")) == NUMBER
