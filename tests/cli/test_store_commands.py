"""list, pull, rm, prune, verify, registry: their words, exit codes and JSON."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests import tiny
from tests.cli.commands import zoo
from tests.http_server import FaultServer
from zoo.formats import manifest
from zoo.hookspecs import Metric
from zoo.store import transport

COMMANDS = (
    "list", "pull", "rm", "prune", "verify", "registry", "registry add", "registry list", "registry remove",
    "registry keygen", "registry sign",
)  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    from zoo.graph import check
    from zoo.store import check_apart as apart

    default = tiny.registry(tmp_path / "default", tiny.bundle(tmp_path / "b" / "inside", name="inside"))
    monkeypatch.setattr("zoo.system.places.default_folder", lambda: default)
    monkeypatch.setattr("zoo.plugins.registries", list, raising=False)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(apart, "check_apart", lambda folder: check.check(folder, manifest.read(folder)))
    return tmp_path / "home"


@pytest.fixture
def lab(tmp_path):
    """A folder that is the registry `lab`, with tiny 1 and 2."""
    one = tiny.bundle(tmp_path / "b" / "one", ballast=100_000)
    two = tiny.bundle(
        tmp_path / "b" / "two", version=2, seed=1, ballast=100_000, summary="Doubles \x1b[31mred\u202e pixels"
    )
    folder = tiny.registry(tmp_path / "lab", one, two)
    assert zoo("registry", "add", "lab", folder).code == 0
    return folder


@pytest.mark.parametrize("words", COMMANDS)
def test_help_has_an_example(words):
    outcome = zoo(*words.split(), "--help")
    assert outcome.code == 0 and "Example:" in outcome.out and f"zoo {words}" in outcome.out


def rows(*words):
    return {row["reference"]: row for row in json.loads(zoo("list", "--json", *words).out)}


def test_list_says_what_there_is_and_what_is_here(lab):
    before = rows("--all-versions")
    assert list(before) == ["inside:1", "lab/tiny:2", "lab/tiny:1"]
    assert [row["where"] for row in before.values()] == ["in package", "folder", "folder"]
    assert before["inside:1"]["missing"] == 0
    assert before["lab/tiny:1"]["missing"] == before["lab/tiny:1"]["size"] > 100_000
    zoo("pull", "tiny:1")
    after = rows()
    assert [(r, row["where"], row["missing"] == 0) for r, row in after.items()] == [
        ("inside:1", "in package", True), ("lab/tiny:2", "folder", False), ("lab/tiny:1", "pulled", True)
    ]  # fmt: skip
    assert list(rows("--local")) == ["inside:1", "lab/tiny:1"]
    zoo("registry", "remove", "lab")
    assert list(rows()) == ["inside:1", "lab/tiny:1"]  # what was pulled outlives its registry
    assert rows()["lab/tiny:1"]["size"] == after["lab/tiny:1"]["size"]


def test_list_filters(lab):
    assert list(rows("--family", "tiny", "--task", "double")) == ["inside:1", "lab/tiny:2"]
    assert rows("--family", "other") == rows("--task", "encode") == rows("nothing like it") == {}
    assert list(rows("INSI")) == ["inside:1"]
    assert zoo("list", "nothing").err == "no model matches; `zoo list` without filters shows all\n"


def test_list_as_a_table(lab):
    lines = zoo("list").out.splitlines()
    assert lines[0].split() == ["model", "what", "tasks", "quality", "time", "size", "where"]
    assert lines[1].split() == ["inside:1", "Doubles", "every", "pixel", "double", "-", "-", "2.0", "kB", "package"]
    assert lines[2].startswith("lab/tiny:2 ") and lines[2].endswith("folder")


def test_list_fits_100_columns_and_shows_the_main_metric(tmp_path):
    metrics = (
        Metric(name="psnr", value=26.085, unit="dB", data="letters test"),
        Metric(name="frechet_distance", value=0.04101, data="letters test"),
    )
    summary = "letters of many alphabets, drawn with a pen, " * 4
    bundle = tiny.bundle(tmp_path / "b" / "long", "long", metrics=metrics, summary=summary)
    registry = tiny.registry(tmp_path / "long", bundle)
    lines = zoo("list", "--registry", registry).out.splitlines()
    assert len(lines) == 3 and max(map(len, lines)) == 100
    assert "FD 0.041" in lines[2] and "letters of many" in lines[2] and "…" in lines[2]
    row = rows("--registry", registry)[next(r for r in rows("--registry", registry) if "long" in r)]
    assert [figure["value"] for figure in row["metrics"]] == [26.085, 0.04101]
    for words in (["LETTERS", "test"], ["alphabets", "double"], ["pen long"]):  # data set, summary, task, name
        assert len(zoo("list", "--registry", registry, *words).out.splitlines()) == 2, words
    assert zoo("list", "--registry", registry, "letters", "inside").out == ""


def test_publish_measures_what_a_picture_takes_and_list_shows_it(tmp_path):
    bundle, folder = tiny.bundle(tmp_path / "b" / "timed", "timed"), tmp_path / "timed"
    assert zoo("publish", bundle, "--to", folder).code == 0
    (row,) = (row for row in rows("--registry", folder).values() if row["name"] == "timed")
    assert 0 < row["seconds"] < 1
    written = (folder / "registry.yaml").read_text()
    (folder / "registry.yaml").write_text(written.replace(f"seconds: {row['seconds']}", "seconds: 71.5"))
    assert " 72 s " in zoo("list", "timed", "--registry", folder).out
    assert zoo("publish", bundle, "--to", folder).code == 0
    assert "seconds: 71.5" in (folder / "registry.yaml").read_text()  # a figure that is there stays
    zoo("registry", "add", "timed", folder)
    zoo("pull", "timed")
    assert rows("--local")["timed/timed:1"]["seconds"] == 71.5


def test_a_strangers_bundle_is_published_without_running_it_here(tmp_path, monkeypatch):
    bundle, folder = tiny.bundle(tmp_path / "b" / "timed", "timed"), tmp_path / "timed"
    monkeypatch.setenv("ZOO_ISOLATE", "")
    outcome = zoo("publish", bundle, "--to", folder)
    assert "not measured, as the bundle was not made here; ZOO_ISOLATE=0 measures" in outcome.err
    (row,) = (row for row in rows("--registry", folder).values() if row["name"] == "timed")
    assert row["seconds"] is None
    assert re.search(r" -  +\d[\d.]* kB  folder$", zoo("list", "timed", "--registry", folder).out.rstrip())


def test_foreign_text_is_cleaned(lab):
    for words in (["list"], ["list", "--json"], ["pull", "tiny"], ["verify"]):
        outcome = zoo(*words)
        assert outcome.code == 0 and "\x1b" not in outcome.out + outcome.err and "\u202e" not in outcome.err


def test_list_shows_damage_and_goes_on(lab, home):
    zoo("pull", "tiny:1", "tiny:2")
    folder = home / "views" / rows()["lab/tiny:1"]["digest"]
    (folder / "README.md").unlink()
    assert [row["where"] for row in rows().values()] == ["in package", "pulled", "damaged"]
    zoo("registry", "remove", "lab")
    (folder / "model.yaml").unlink()
    assert [row["where"] for row in rows().values()] == ["in package", "pulled", "damaged"]


def test_pull_prints_folders_and_says_how_much(lab, home):
    outcome = zoo("pull", "lab/tiny", "inside")
    view, inside = outcome.out.splitlines()
    assert view.startswith(str(home / "views")) and inside.endswith("models/inside/1")
    assert outcome.err == "lab/tiny:2: 102.0 kB to fetch\ninside:1 is installed: nothing to fetch\n"
    assert zoo("pull", "lab/tiny").err == "lab/tiny:2 is in the store: nothing to fetch\n"
    (first,) = json.loads(zoo("pull", "tiny", "--json").out)
    assert first == {"reference": "lab/tiny:2", "digest": first["digest"], "folder": view}


def test_pull_from_a_registry_given_with_the_call(lab, tmp_path):
    zoo("registry", "remove", "lab")
    with FaultServer(lab) as server:
        assert zoo("pull", "tiny:1", "--registry", server.url("")).code == 0
    assert [r for r in rows() if "127-0-0-1" in r]
    assert zoo("pull", "tiny:1").code == 3


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("pull tinny", 3, "no model 'tinny' in registry 'default', registry 'lab'; did you mean 'tiny'?"),
        ("pull tiny:9", 3, "tiny has no version 9 in registry 'lab'; versions there: 1, 2"),
        ("pull Tiny", 2, "'Tiny' is not a model reference"),
        ("pull", 2, "name the models to fetch; `zoo list` lists them, and --locked fetches those of zoo.lock"),
        ("pull tiny --registry /nowhere", 3, "/nowhere is not a registry"),
        ("pull tiny --registry ftp://h/x", 2, "'ftp://h/x' is not a registry"),
        ("rm tiny", 3, "tiny was not pulled; `zoo list --local` shows what is"),
        ("verify nothing", 3, "no model 'nothing'"),
        ("verify tiny", 3, "lab/tiny:2 is not in the store; `zoo pull lab/tiny:2` fetches it"),
        ("verify ./nowhere", 3, "nowhere is not a bundle"),
        ("registry add lab https://127.0.0.1:9/", 2, "there is already a registry 'lab'"),
        ("registry remove lob", 3, "no registry 'lob' was added; did you mean 'lab'?"),
        ("registry lst", 2, "there is no command 'registry lst'; did you mean 'list'?"),
    ],
)
def test_mistakes_are_one_line(lab, words, code, says):
    outcome = zoo(*words.split())
    assert outcome.code == code
    assert says in outcome.err and "Traceback" not in outcome.err and outcome.out == ""
    assert len([line for line in outcome.err.splitlines() if line.startswith("Error: ")]) == 1


def test_rm_and_prune(lab, home):
    zoo("pull", "tiny:1", "tiny:2")
    outcome = zoo("rm", "tiny")
    assert (
        outcome.code == 2
        and "tiny may mean any of lab/tiny:1, lab/tiny:2; name one, or add --all-versions" in outcome.err
    )
    assert zoo("rm", "tiny:1").err == "removed lab/tiny:1, 101.7 kB freed\n"  # README and graph are shared
    assert zoo("rm", "tiny", "--all-versions").code == 0
    assert list(rows("--local")) == ["inside:1"]
    (home / "blobs" / ("a" * 64)).write_bytes(b"x" * 1500)
    assert json.loads(zoo("prune", "--dry-run", "--json").out) == {"paths": [], "bytes": 0}  # too young


def test_prune_prints_what_goes(home, monkeypatch):

    monkeypatch.setattr("zoo.store.prune.YOUNG_SECONDS", 0)
    (home / "blobs").mkdir(parents=True)
    (home / "blobs" / ("a" * 64)).write_bytes(b"x" * 1500)
    for words, verb in ((["prune", "--dry-run"], "would be freed"), (["prune"], "freed")):
        outcome = zoo(*words)
        assert outcome.out == f"blobs/{'a' * 64}\n" and outcome.err == f"1.5 kB {verb}\n"
    assert zoo("prune").out == ""


def test_verify_names_what_is_wrong(lab, home):
    zoo("pull", "tiny:1")
    outcome = zoo("verify")
    assert outcome.code == 0
    assert outcome.out == "inside:1: all files are as published\nlab/tiny:1: all files are as published\n"
    path = home / "views" / rows()["lab/tiny:1"]["digest"] / "model.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    outcome = zoo("verify", "tiny:1")
    assert outcome.code == 5
    assert "model.safetensors does not match its SHA-256" in outcome.out
    mended = "fetch it again with `zoo rm lab/tiny:1` and `zoo pull lab/tiny:1`"
    assert outcome.err == f"Error: not as published: lab/tiny:1; {mended}\n"
    (report,) = json.loads(zoo("verify", "tiny:1", "--json").out)
    assert not report["right"] and len(report["findings"]) == 1
    assert zoo("pull", "tiny:1").code == 0 and zoo("verify").code == 0  # mended


def test_verify_replays_and_takes_folders(lab, tmp_path):
    outcome = zoo("verify", tmp_path / "b" / "one", "inside", "--replay", "--device", "cpu")
    assert outcome.code == 0 and outcome.out.count("identical") >= 2
    reports = json.loads(zoo("verify", "inside", "--replay", "--device", "cpu", "--json").out)
    assert reports[0]["replay"][0]["verdict"] == "identical" and reports[0]["replay"][0]["task"] == "double"
    golden = tmp_path / "b" / "one" / "golden.safetensors"
    golden.write_bytes(golden.read_bytes()[:-1] + b"\x07")
    outcome = zoo("verify", tmp_path / "b" / "one")
    assert outcome.code == 5 and "golden.safetensors does not match its SHA-256" in outcome.out
    assert "was not pulled: build it again" in outcome.err and "zoo pull" not in outcome.err
    (tmp_path / "default" / "models" / "inside" / "1" / "README.md").write_text("x")
    assert zoo("verify", "inside").err == "Error: not as published: inside:1; reinstall genzoo-inside\n"


def test_outputs_that_differ_are_no_reason_to_fetch_anew(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = tiny.bundle(tmp_path / "b" / "other")
    golden = load_file(folder / "golden.safetensors")
    golden["double/0/outputs/doubled"] ^= 64
    save_file(golden, folder / "golden.safetensors")
    m = manifest.read(folder)
    files = m.files | {"golden.safetensors": manifest.describe_file(folder / "golden.safetensors")}
    (folder / "model.yaml").write_bytes(manifest.dump(msgspec.structs.replace(m, files=files)))
    outcome = zoo("verify", folder, "--replay", "--device", "cpu")
    assert outcome.code == 5 and "all files are as published" in outcome.out and "differs" in outcome.out
    assert f"the files of {folder} are as published, but its outputs here differ" in outcome.err


def test_registry_list(lab):
    lines = zoo("registry", "list").out.splitlines()
    assert lines[0].split() == ["name", "models", "runs", "signed", "url"]
    assert [line.split()[0] for line in lines[1:]] == ["default", "lab"]
    rows = json.loads(zoo("registry", "list", "--json").out)
    assert [(r["name"], r["in_process"]) for r in rows] == [("default", True), ("lab", False)]


def test_registry_add_again_marks_it(lab):
    folder = lab
    assert zoo("registry", "add", "lab", folder, "--in-process").code == 0
    assert [line.split()[2:4] for line in zoo("registry", "list").out.splitlines()[2:]] == [["in", "process"]]
    assert zoo("registry", "add", "lab", folder).code == 0
    assert [line.split()[2:5] for line in zoo("registry", "list").out.splitlines()[2:]] == [["in", "a", "worker"]]


def test_plain_http_is_told(lab):
    with FaultServer(lab) as server:
        outcome = zoo("registry", "add", "web", server.url(""))
    assert outcome.code == 0 and "plain http" in outcome.err and "web: 1 model at http://127.0.0.1" in outcome.err


@pytest.fixture
def key(tmp_path) -> Path:
    assert zoo("registry", "keygen", "--out", tmp_path / "lab.key").code == 0
    return tmp_path / "lab.key"


def test_keygen_writes_a_key_that_only_its_owner_reads(tmp_path):
    made = zoo("registry", "keygen", "--out", tmp_path / "lab.key")
    assert made.code == 0 and re.fullmatch("ed25519:[0-9a-f]{64}\n", made.out) and "wrote the private key" in made.err
    assert (tmp_path / "lab.key").stat().st_mode & 0o777 == 0o600
    again = zoo("registry", "keygen", "--out", tmp_path / "lab.key")
    assert again.code == 2 and "exists already" in again.err


def test_sign_publish_and_add_with_the_key(tmp_path, lab, key):
    public = zoo("registry", "keygen", "--out", tmp_path / "other.key").out.strip()
    folder = tmp_path / "signed"
    assert zoo("publish", tiny.bundle(tmp_path / "b1"), "--to", folder).code == 0
    signed = zoo("registry", "sign", folder, "--key", key, "--name", "lab", "--days", 30)
    assert (
        signed.code == 0 and signed.out == f"{folder}/registry.sig\n" and "signed 'lab', serial 1, until" in signed.err
    )
    refused = zoo("publish", tiny.bundle(tmp_path / "b2", version=2), "--to", folder)
    assert refused.code == 2 and "give --sign FILE" in refused.err
    assert zoo("publish", tmp_path / "b2", "--to", folder, "--sign", key).code == 0
    refused = zoo("registry", "add", "signed", folder, "--key", public)
    assert refused.code == 5 and f"is not signed by {public}" in refused.err
    assert zoo("registry", "add", "signed", folder).code == 0
    (row,) = (row for row in json.loads(zoo("registry", "list", "--json").out) if row["name"] == "signed")
    assert (row["signed"]["as"], row["signed"]["serial"], row["signed"]["threshold"]) == ("lab", 2, 1)
    waits = zoo("registry", "sign", folder, "--key", tmp_path / "other.key", "--trust", public)
    assert waits.code == 0 and waits.out == f"{folder}/registry.sig.part\n"
    assert "serial 3 of 'lab' waits for 1 more of ed25519:" in waits.err


def test_signing_with_mistakes_is_one_line(tmp_path, lab, key):
    for words, code, reason in (
        ([lab, "--key", key], 2, "the first signature of a registry needs --name"),
        ([lab, "--key", key, "--name", "A b"], 2, "'A b' is not a registry name"),
        ([lab, "--key", key, "--name", "lab", "--trust", "x"], 2, "'x' is not a public key"),
        ([lab, "--key", key, "--name", "lab", "--threshold", 2], 2, "2 of 1 keys cannot sign"),
        ([lab, "--key", tmp_path / "none", "--name", "lab"], 3, "none"),
        ([tmp_path, "--key", key, "--name", "lab"], 3, "is not a registry: it has no registry.yaml"),
    ):
        outcome = zoo("registry", "sign", *words)
        assert outcome.code == code and outcome.err.startswith("Error: ") and reason in outcome.err, outcome.err
        assert not (lab / "registry.sig").exists()


# --- As processes -----------------------------------------------------------------------------------------------------


def run(*words: object, home: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"ZOO_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([*map(str, words)], env=environment, capture_output=True, text=True)


PULL = """
import sys
from zoo.cli import main
try:
    main(["pull", "tiny:1"])
except SystemExit as e:
    print(e.code, sorted({"onnx", "numpy", "torch", "PIL", "onnxruntime"} & set(sys.modules)))
"""


def test_pull_in_a_process_checks_graphs_apart_and_imports_nothing_heavy(lab, home):
    done = run(sys.executable, "-c", PULL, home=home)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_graph_that_cannot_be_read_is_a_finding_of_the_process_apart(tmp_path, home):
    folder = tiny.bundle(tmp_path / "b" / "bad")
    for data in (b"\x08", b""):
        (folder / "double.onnx").write_bytes(data)
        done = run(sys.executable, "-m", "zoo.store.check_apart", folder, home=home)
        assert done.returncode == 0 and "double.onnx" in json.loads(done.stdout)[0]


def test_closed_pipe_leaves_no_traceback(lab, home):
    done = run("bash", "-c", f"{sys.executable} -m zoo list --json | true; echo ${{PIPESTATUS[0]}}", home=home)
    assert done.stdout.strip() in ("0", "141") and "Traceback" not in done.stderr
