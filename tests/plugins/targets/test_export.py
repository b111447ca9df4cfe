"""`zoo export` and `zoo verify` on what it wrote: the folder, the report, and what is refused."""

import json
import shutil
from dataclasses import replace

import msgspec
import numpy as np
import onnx
import pytest
from zoo_targets import plugin

from tests.cli.commands import zoo
from tests.tiny_tasks import studio
from zoo.build.bodies import move_into_bodies
from zoo.errors import ExportError
from zoo.formats import manifest as manifests
from zoo.hookspecs import Target
from zoo.media import tensors
from zoo.ship import export
from zoo.ship.bodies import move_out_of_bodies
from zoo.ship.compatibility import report_on
from zoo.store.locate import read_folder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))


@pytest.fixture
def bundle(tmp_path):
    return studio(tmp_path / "studio")


@pytest.fixture
def exported(tmp_path, bundle):
    done = zoo("export", bundle, "--target", "python", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    return tmp_path / "out"


def target_with(monkeypatch, **fields):
    monkeypatch.setitem(plugin.TARGETS, "python", replace(plugin.TARGETS["python"], **fields))


# --- The folder -------------------------------------------------------------------------------------------------------


def test_the_bundle_is_inside_byte_for_byte(bundle, exported):
    assert {p.name: p.read_bytes() for p in bundle.iterdir()} == {
        p.name: p.read_bytes() for p in (exported / "model").iterdir()
    }


def test_the_manifest_as_json_states_every_bound(exported):
    tasks = json.loads((exported / "model.json").read_bytes())["tasks"]
    assert (
        tasks["generate"]["inputs"]["seed"] | {"minimum": 0, "maximum": 2**53 - 1}
        == tasks["generate"]["inputs"]["seed"]
    )


def test_golden_cases_are_raw_arrays(bundle, exported):
    golden = tensors.load(bundle / "golden.safetensors")
    found = 0
    for case in json.loads((exported / "golden" / "cases.json").read_bytes()):
        for side in ("inputs", "outputs"):
            for port, raw in case[side].items():
                array = np.fromfile(exported / "golden" / raw["file"], raw["dtype"]).reshape(raw["shape"])
                np.testing.assert_array_equal(array, golden[f"{case['task']}/{case['case']}/{side}/{port}"])
                found += 1
    assert found == len(golden)


def test_the_same_model_gives_the_same_bytes(tmp_path, bundle, exported):
    zoo("export", bundle, "--target", "python", "-o", tmp_path / "again")
    for path in (p for p in exported.rglob("*") if p.is_file()):
        assert (tmp_path / "again" / path.relative_to(exported)).read_bytes() == path.read_bytes(), path


def test_a_task_alone_leaves_the_others_out(tmp_path, bundle):
    done = zoo("export", bundle, "--target", "python", "-o", tmp_path / "one", "--task", "encode")
    assert done.code == 0, done.err
    assert sorted(p.name for p in (tmp_path / "one" / "model").iterdir()) == [
        "README.md", "encode.onnx", "golden.safetensors", "model.yaml"
    ]  # fmt: skip
    assert "decode" in done.out and "not requested" in done.out
    assert zoo("verify", tmp_path / "one", "--run-host").code == 0


def test_it_never_overwrites_without_force(tmp_path, bundle, exported):
    again = ("export", bundle, "--target", "python", "-o", exported)
    before = (exported / "export.json").stat().st_ino
    refused = zoo(*again)
    assert (refused.code, refused.err) == (
        2, f"Error: {exported} exists; choose another folder, or --force to replace it\n"
    )  # fmt: skip
    assert (exported / "export.json").stat().st_ino == before
    assert zoo(*again, "--force").code == 0
    assert (exported / "export.json").stat().st_ino != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "out", "studio"]


def test_force_replaces_nothing_but_an_export(tmp_path, bundle):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    done = zoo("export", bundle, "--target", "python", "-o", tmp_path / "mine", "--force")
    assert done.code == 2 and "is not an export of a model, and --force replaces nothing else" in done.err
    assert (tmp_path / "mine" / "diary.txt").exists()


def test_a_failure_leaves_nothing(tmp_path, bundle, monkeypatch):
    monkeypatch.setattr("zoo_targets.python.write", lambda request: 1 / 0)
    done = zoo("export", bundle, "--target", "python", "-o", tmp_path / "out")
    assert done.code == 9 and "its hook write_target failed" in done.err
    assert not list(tmp_path.glob("*out*"))


def test_a_damaged_bundle_is_refused(tmp_path, bundle):
    with (bundle / "golden.safetensors").open("r+b") as f:
        f.seek(-1, 2)
        f.write(b"!")
    done = zoo("export", bundle, "--target", "python", "-o", tmp_path / "out")
    assert (
        done.code == 5
        and "golden.safetensors does not match its SHA-256" in done.err
        and not (tmp_path / "out").exists()
    )


def test_an_unknown_target_names_those_there_are(tmp_path, bundle):
    done = zoo("export", bundle, "--target", "pyton", "-o", tmp_path / "out")
    assert done.code == 3 and "no installed plugin writes the target 'pyton'; installed: " in done.err
    assert "did you mean 'python'?" in done.err


# --- The report -------------------------------------------------------------------------------------------------------

OBSTACLES = {
    "opset": ({"opset": 16}, "opset 17, but it supports at most 16"),
    "ir": ({"ir_version": 7}, "IR 8, but it supports at most 7"),
    "size": ({"file_bytes": 10}, "but it opens at most 10 B"),
    "operator": ({"missing_operators": ("Softmax", "Neg")}, "it has no kernel for Neg, Softmax"),
}


@pytest.mark.parametrize("fields, says", OBSTACLES.values(), ids=OBSTACLES)
def test_a_task_that_cannot_run_is_left_out_and_says_why(tmp_path, bundle, monkeypatch, fields, says):
    target_with(monkeypatch, **fields)
    done = zoo("export", bundle, "--target", "python", "-o", tmp_path / "out", "--task", "classify")
    assert done.code == 10 and says in done.err and not (tmp_path / "out").exists()


def test_the_other_tasks_are_still_exported(tmp_path, bundle, monkeypatch):
    target_with(monkeypatch, missing_operators=("Softmax",))
    done = zoo("export", bundle, "--target", "python", "-o", tmp_path / "out", "--json")
    report = {r["task"]: r for r in json.loads(done.out)["report"]}
    assert not report["classify"]["runs"] and report["classify"]["reason"] == "it has no kernel for Softmax"
    assert report["encode"]["runs"] and report["encode"]["int64_ports"] == ["tokens", "size"]
    assert not (tmp_path / "out" / "model" / "classify.onnx").exists()
    assert zoo("verify", tmp_path / "out", "--run-host").code == 0


def sampler(folder, step="reconstruct"):
    """The studio with a `generate` that loops, and its part, which is like another task."""
    bundle = studio(folder)
    manifest = manifests.read(bundle)
    loop = """<ir_version: 8, opset_import: ["" : 17]>
    generate (int64[batch] label, int64[batch] seed, int64 steps, float[batch] guidance) => (uint8[batch,8,8,1] image)
      <int64[4] shape = {1, 8, 8, 1}, int64[3] axes = {1, 2, 3}, bool go = {1}> {
        first = Identity(seed)
        last = Loop(steps, go, first) <body = step (int64 i, bool c, int64[batch] x) => (bool d, int64[batch] y)
          <int64 one = {1}> { d = Identity(c)  y = Add(x, one) }>
        wide = Unsqueeze(last, axes)
        pixels = Expand(wide, shape)
        image = Cast<to = 2>(pixels)
    }"""
    onnx.save_model(onnx.parser.parse_model(loop), bundle / "generate.onnx")
    golden = tensors.load(bundle / "golden.safetensors")
    pictures = (golden["generate/0/inputs/seed"] + 20).astype(np.uint8)[:, None, None, None]
    golden["generate/0/outputs/image"] = np.broadcast_to(pictures, (2, 8, 8, 1)).copy()
    for name, array in list(golden.items()):
        if name.startswith(f"{step}/"):
            golden[name.replace(f"{step}/", "generate_step/")] = array
    tensors.save(bundle / "golden.safetensors", golden)
    shutil.copyfile(bundle / f"{step}.onnx", bundle / "generate_step.onnx")
    part = msgspec.structs.replace(manifest.tasks[step], part_of="generate")
    manifest = msgspec.structs.replace(
        manifest,
        tasks=manifest.tasks | {"generate_step": part},
        files={p.name: manifests.describe_file(p) for p in sorted(bundle.iterdir()) if p.name != "model.yaml"},
    )
    (bundle / "model.yaml").write_bytes(manifests.dump(manifest))
    return bundle


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        ({"loops": False}, "it has no Loop"),
        ({"int64_bits": 32}, "the host must draw the seed's noise, but what depends on the seed is not the noise"),
    ],
)
def test_a_sampler_that_does_not_run_is_shipped_as_its_parts(tmp_path, monkeypatch, lacks, says):
    bundle = sampler(tmp_path / "sampler")
    target_with(monkeypatch, **lacks)
    done = zoo("export", bundle, "--target", "python", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert says in done.out and "; generate_step are its parts, for a loop in the host" in done.out
    names = {p.name for p in (tmp_path / "out" / "model").iterdir()}
    assert "generate_step.onnx" in names and "generate.onnx" not in names
    assert zoo("verify", tmp_path / "out", "--run-host").code == 0


def test_a_part_that_does_not_run_leaves_the_others_at_home(tmp_path, monkeypatch):
    """A host that keeps the loop needs all of them."""
    bundle = sampler(tmp_path / "sampler", step="generate")
    target_with(monkeypatch, int64_bits=32)
    done = zoo("export", bundle, "--target", "python", "-o", tmp_path / "out")
    assert done.code == 0 and "parts" not in done.out
    assert not list((tmp_path / "out" / "model").glob("generate*.onnx"))


def test_parts_stay_at_home_where_the_whole_runs(tmp_path):
    bundle = sampler(tmp_path / "sampler")
    done = zoo("export", bundle, "--target", "python", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert not (tmp_path / "out" / "model" / "generate_step.onnx").exists()


def test_the_report_reads_control_flow(tmp_path):
    found = read_folder(sampler(tmp_path / "sampler"))
    report = {r.task: r for r in report_on(found.folder, found.manifest, Target(name="x", summary="x", runtime="x"))}
    assert report["generate"].control_flow == ("Loop",) and report["classify"].control_flow == ()


def test_weights_move_out_of_a_loop_and_in_again():
    def weight(name):
        tensor = onnx.TensorProto(name=name, data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="model.safetensors")
        return tensor

    text = """<ir_version: 8, opset_import: ["" : 17]> g (int64 n, float[1] x) => (float[1] z)
      <bool go = {1}> { z = Loop(n, go, x) <body = b (int64 i, bool c, float[1] x0) => (bool d, float[1] y)
        <float[1] constant = {1.0}> { d = Identity(c) s = Mul(x0, w) y = Add(s, constant) }> }"""
    graph = onnx.parser.parse_model(text).graph
    body = graph.node[0].attribute[0].g
    body.initializer.append(weight("w"))
    before = graph.SerializeToString()
    move_out_of_bodies(graph)
    assert [t.name for t in graph.initializer] == ["go", "w"] and [t.name for t in body.initializer] == ["constant"]
    move_into_bodies(graph)
    assert {t.name for t in body.initializer} == {"constant", "w"}
    assert len(graph.SerializeToString()) == len(before)


# --- Verifying --------------------------------------------------------------------------------------------------------


def rehash(folder):
    """What a stranger does who changed a file: export.json says so too."""
    path = folder / "export.json"
    found = json.loads(path.read_bytes())
    for name in found["files"]:
        described = manifests.describe_file(folder / name)
        found["files"][name] = {"size": described.size, "sha256": described.sha256}
    path.write_text(json.dumps(found))


def test_verify_hashes_and_replays(exported):
    done = zoo("verify", exported)
    assert done.code == 0 and "all files are as published" in done.out
    assert done.out.count("identical") >= 6


@pytest.mark.parametrize("name", ["run.py", "model/generate.onnx", "golden/cases.json", "README.md"])
def test_verify_finds_a_changed_file(exported, name):
    with (exported / name).open("ab") as f:
        f.write(b" ")
    done = zoo("verify", exported)
    assert done.code == 5 and f"{name} has" in done.out


def test_verify_replays_a_changed_model(exported):
    golden = exported / "model" / "golden.safetensors"
    arrays = tensors.load(golden)
    arrays["generate/0/outputs/image"] = arrays["generate/0/outputs/image"] ^ 64
    tensors.save(golden, arrays)
    manifest = manifests.read(exported / "model")
    files = manifest.files | {"golden.safetensors": manifests.describe_file(golden)}
    (exported / "model" / "model.yaml").write_bytes(manifests.dump(msgspec.structs.replace(manifest, files=files)))
    rehash(exported)
    done = zoo("verify", exported)
    assert done.code == 5 and "differs" in done.out


def test_a_host_runs_and_is_judged(exported):
    done = zoo("verify", exported, "--run-host", "--json")
    (report,) = json.loads(done.out)
    assert done.code == 0 and report["right"] and "onnxruntime" in report["ran_by"]
    assert {row["provider"] for row in report["host"]} == {"python"}
    assert {row["verdict"] for row in report["host"]} <= {"identical", "within"}


def test_a_host_that_is_not_ours_is_not_run(exported, tmp_path):
    (exported / "run.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    rehash(exported)
    done = zoo("verify", exported, "--run-host")
    assert done.code == 5 and "run.py is not byte for byte what zoo-targets" in done.err
    assert not (tmp_path / "owned").exists()
    zoo("verify", exported, "--trust")
    assert (tmp_path / "owned").exists()


def test_a_file_that_a_host_could_load_is_not_trusted(exported, tmp_path):
    (exported / "numpy.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    done = zoo("verify", exported, "--run-host")
    assert done.code == 5 and "numpy.py is not byte for byte what" in done.err
    assert not (tmp_path / "owned").exists()


def test_a_host_is_compared_before_anything_takes_time(exported, monkeypatch):
    (exported / "numpy.py").write_text("")
    monkeypatch.setattr("zoo.cli.verify._replay", lambda *arguments: pytest.fail("it was replayed first"))
    assert zoo("verify", exported, "--run-host").code == 5


def test_dependencies_in_the_folder_are_named_and_never_run(exported, tmp_path, monkeypatch):
    """They are somebody's code: here a planted numpy, in the place where a target's tools would install theirs."""
    target_with(monkeypatch, installed=("numpy",))
    (exported / "numpy").mkdir()
    (exported / "numpy" / "__init__.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    done = zoo("verify", exported, "--run-host", "--json")
    assert done.code == 0 and json.loads(done.out)[0]["host"]
    assert done.err.startswith(f"{exported}: not part of the export, so neither compared nor run: numpy; the host runs")
    assert (exported / "numpy" / "__init__.py").is_file() and not (tmp_path / "owned").exists()
    zoo("verify", exported, "--trust")
    assert (tmp_path / "owned").exists()  # it would have been loaded


def test_a_listed_file_that_a_host_could_load_is_not_trusted_either(exported, tmp_path):
    (exported / "numpy.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    found = json.loads((exported / "export.json").read_bytes())
    found["files"]["numpy.py"] = {"size": 0, "sha256": "0" * 64}
    (exported / "export.json").write_text(json.dumps(found))
    rehash(exported)
    done = zoo("verify", exported, "--run-host")
    assert done.code == 5 and "numpy.py" in done.err and not (tmp_path / "owned").exists()


def test_a_host_that_differs_is_found(exported):
    source = (exported / "run.py").read_text()
    (exported / "run.py").write_text(
        source.replace(
            "outputs[name].tofile(",
            "(outputs[name] ^ 64 if outputs[name].dtype == np.uint8 else outputs[name]).tofile(",
        )
    )
    rehash(exported)
    done = zoo("verify", exported, "--trust")
    assert done.code == 5 and "differs" in done.out


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 2}', '{"files": {"../x": {}}}', "\udcff"])
def test_an_export_json_that_is_none_is_one_line(exported, text):
    (exported / "export.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    done = zoo("verify", exported)
    assert done.code == 4 and done.err.count("\n") == 1 and "export.json" in done.err


def test_no_target_can_run_nothing(tmp_path, bundle, monkeypatch):
    target_with(monkeypatch, opset=1)
    with pytest.raises(ExportError, match="python can run no task of studio"):
        export.export(read_folder(bundle), "python", tmp_path / "out")
