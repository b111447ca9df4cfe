"""Foreign checkpoints: read right, or refused in one line; never run."""

import json
import os
import pickle
import random
import subprocess
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zoo.build import foreign, unpickle, weightfiles
from zoo.errors import InvalidFileError, NotFoundError, UsageError, ZooError

from . import hostile

ROOT = Path(__file__).parents[2]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def same(a: dict, b: dict) -> bool:
    """Names, types and values."""

    def equal(x: torch.Tensor, y: torch.Tensor) -> bool:
        if x.dtype.is_floating_point and x.element_size() == 1:
            x, y = x.float(), y.float()  # torch does not compare float8
        return x.dtype == y.dtype and torch.equal(x, y)

    return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)


# --- What torch writes ------------------------------------------------------------------------------------------------

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64"]
CONTAINERS = {"zip": {}, "old": {"_use_new_zipfile_serialization": False}, "protocol 4": {"pickle_protocol": 4}}


@pytest.fixture
def tree() -> dict:
    torch.manual_seed(0)
    shared = torch.randn(4, 6)
    tree = {dtype: (torch.rand(3, 5) * 100).to(getattr(torch, dtype)) for dtype in DTYPES}
    return tree | {
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "shared": shared,
        "turned": shared.t(),
        "part": shared[1:, ::2],
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "float8": torch.randn(7).to(torch.float8_e4m3fn),
    }


@pytest.mark.parametrize("options", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_reads_what_torch_saves(tmp_path, tree, options):
    if "_use_new_zipfile_serialization" in options:
        del tree["float8"]  # younger than the old container
    path = tmp_path / "a.pt"
    torch.save(tree, path, **options)
    read = foreign.read(path)
    assert same(read.tensors, torch.load(path, weights_only=False))  # our own file; weights_only knows protocol 2 alone
    assert read.tensors["turned"].stride() == (1, 6)
    assert read.notes == () and read.config is None and read.path == path


def test_a_bare_pickle_of_tensors(tmp_path):
    weights = {"a": torch.randn(3), "b": torch.randn(2, 2)}
    path = write(tmp_path / "a.pkl", pickle.dumps(OrderedDict(weights)))
    assert same(foreign.read(path).tensors, weights)


def test_an_ordered_dict_of_python_2(tmp_path):
    pairs = b"]" + b"".join(b"](" + hostile.text(name) + hostile.tensor() + b"ea" for name in "ab")
    body = hostile.program(hostile.call("collections.OrderedDict", pairs))
    assert list(foreign.read(write(tmp_path / "a.pt", hostile.old_file(body))).tensors) == ["a", "b"]


def test_a_whole_module_gives_its_tensors(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    torch.save(module, tmp_path / "a.pt")
    torch.save(module, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    for name in "ab":
        assert same(foreign.read(tmp_path / f"{name}.pt").tensors, module.state_dict())


def test_writing_to_a_tensor_does_not_reach_the_file(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(4)}, path)
    before = path.read_bytes()
    foreign.read(path).tensors["a"].fill_(7)
    assert path.read_bytes() == before


def test_safetensors_under_another_suffix(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.bin")
    assert foreign.read(tmp_path / "a.bin").tensors["a"].tolist() == [1, 1]


# --- Wrappings --------------------------------------------------------------------------------------------------------

W = {"a.weight": torch.ones(2), "a.bias": torch.zeros(2)}


def named(prefix: str, times: float = 1) -> dict[str, torch.Tensor]:
    """The same weights under names with a prefix; other weights if `times` is not 1."""
    return {prefix + name: tensor * times for name, tensor in W.items()}


@pytest.mark.parametrize(
    ("tree", "notes"),
    [
        ({"state_dict": W, "epoch": 3}, ("used 'state_dict', left epoch",)),
        ({"model": {"x": torch.ones(1)}, "ema": W, "opt": {}}, ("used 'ema', left model, opt",)),
        ({"model": {"state_dict": W}}, ("used 'model'", "used 'state_dict'")),
        ({f"module.{k}": v for k, v in W.items()}, ("removed the prefix 'module.' from all names",)),
        ({f"module._orig_mod.{k}": v for k, v in W.items()}, 2),
        ({"a": {"weight": W["a.weight"], "bias": W["a.bias"]}}, ()),
        (W | {"epoch": 3, "none": None}, ("left out what is not a tensor: epoch",)),
        (defaultdict(dict, W), ()),
        (named("_orig_mod.module."), 2),
        (named("module.model._orig_mod.net."), 4),
        (named("_forward_module.model."), 2),
        (named("_fsdp_wrapped_module.model."), 2),
        (
            {
                "a._fsdp_wrapped_module.weight": W["a.weight"],
                "a._checkpoint_wrapped_module._orig_mod.bias": W["a.bias"],
            },
            3,
        ),
        ({"state_dict": named("net.", 2) | named("ema_model.module.")}, 3),
        ({"state_dict": named("model."), "pytorch-lightning_version": "2.5", "callbacks": {}}, 2),
        ({"module": named("module."), "optimizer": None, "ds_version": "0.17"}, 2),  # DeepSpeed
        ({"model": named("module."), "ema": {"decay": 0.999, "shadow": W}}, 2),
        (
            {
                "step": 1,
                "model": named("model.", 3),
                "ema": {"initted": torch.tensor(True), "step": torch.tensor([9])}
                | named("online_model.", 3)
                | named("ema_model."),
            },
            2,
        ),  # lucidrains' trainers
        ({"n_averaged": torch.tensor(7)} | named("module."), 1),  # torch.optim.swa_utils.AveragedModel
        ({"betas": torch.ones(3), "posterior_variance": torch.ones(3)} | named("model."), 1),
    ],
)
def test_unwraps_and_says_so(tmp_path, tree, notes):
    path = tmp_path / "a.ckpt"
    torch.save(tree, path)
    read = foreign.read(path)
    assert same(read.tensors, W)
    assert len(read.notes) == notes if isinstance(notes, int) else read.notes == notes


def test_a_name_that_only_some_begin_with_stays(tmp_path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pt")
    assert list(foreign.read(tmp_path / "a.pt").tensors) == ["module.a", "b"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "complex64", "float8_e5m2"])
def test_refuses_nan_and_infinity(tmp_path, value, dtype):
    bad = torch.tensor([1.0, value, 2.0]).to(getattr(torch, dtype))
    torch.save({"fine": torch.ones(2), "layer.bad": bad}, tmp_path / "a.pt")
    with pytest.raises(InvalidFileError, match=r"a\.pt: the tensor 'layer\.bad' contains NaN or infinity$"):
        foreign.read(tmp_path / "a.pt")


@pytest.mark.parametrize("key", ["ema", "ema_model", "shadow"])
def test_averages_in_a_list_have_no_names(tmp_path, key):
    tree = {"model": W, key: {"decay": 0.99, "shadow_params": [tensor * 2 for tensor in W.values()]}, "epoch": 3}
    torch.save(tree, tmp_path / "m.pt")
    read = foreign.read(tmp_path)
    assert same(read.tensors, W)
    assert f"'{key}' is a list of 2 tensors without names, so it is not used" in read.notes
    del tree["model"]
    torch.save(tree, tmp_path / "m.pt")
    with pytest.raises(InvalidFileError, match="its 2 tensors are in a list without names, as averages"):
        foreign.read(tmp_path)


def test_averages_are_completed_by_the_buffers_of_the_trained_weights(tmp_path):
    trained = {f"module.{name}": tensor * 2 for name, tensor in W.items()} | {"module.running": torch.arange(3.0)}
    torch.save({"model": trained, "ema": {"shadow": W}}, tmp_path / "m.pt")
    assert same(foreign.read(tmp_path).tensors, W | {"running": torch.arange(3.0)})


@pytest.mark.parametrize("tree", [
    {"model.a": torch.ones(1), "net.b": torch.ones(1)},  # two parts of one model
    {"model.a": torch.ones(1), "betas_net.b": torch.ones(1)},
    {"ema.a": torch.ones(1), "model.b": torch.ones(1)},  # not an average of the other
])  # fmt: skip
def test_parts_of_a_model_keep_their_names(tmp_path, tree):
    torch.save(tree, tmp_path / "m.pt")
    assert foreign.read(tmp_path).tensors.keys() == tree.keys()


def test_two_tensors_of_one_name_are_refused(tmp_path):
    torch.save({"a.b": torch.ones(1), "_orig_mod.a.b": torch.ones(1)}, tmp_path / "m.pt")
    with pytest.raises(InvalidFileError, match=r"two tensors have the name 'a\.b' without _orig_mod"):
        foreign.read(tmp_path)


# --- Shards -----------------------------------------------------------------------------------------------------------


def shards(folder: Path, ending: str = ".safetensors") -> Path:
    """Three shards of W and another tensor, and their index."""
    folder.mkdir(exist_ok=True)
    tensors, index = W | {"c": torch.arange(4.0)}, {}
    for number, (name, tensor) in enumerate(tensors.items(), start=1):
        file = f"model-{number:05}-of-00003{ending}"
        index[name] = file
        (save_file if ending == ".safetensors" else torch.save)({name: tensor}, folder / file)
    path = folder / f"model{ending}.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
@pytest.mark.parametrize("given", ["", "model{}.index.json", "model-00002-of-00003{}"])
@pytest.mark.parametrize("indexed", [True, False])
def test_shards_are_read_together(tmp_path, ending, given, indexed):
    index = shards(tmp_path, ending)
    if not indexed:
        if "index" in given:
            return
        index.unlink()
    read = foreign.read(tmp_path / given.format(ending))
    assert same(read.tensors, W | {"c": torch.arange(4.0)})
    assert "read 3 shards" in read.notes and len(read.files) == 3


def test_shards_that_do_not_fit_their_index(tmp_path):
    index = shards(tmp_path)
    said = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": said["weight_map"] | {"d": "model-00001-of-00003.safetensors"}}))
    with pytest.raises(InvalidFileError, match=r"do not list the same tensors: d$"):
        foreign.read(tmp_path)
    for name in ("../model.safetensors", "/etc/passwd", "a\\b", "a\x1bb", ".."):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(InvalidFileError, match="is not the name of a file next to it"):
            foreign.read(tmp_path)
    for text in ("", "[]", "{}", '{"weight_map": {"a": 1}}', "[" * 100_000):
        index.write_text(text)
        with pytest.raises(InvalidFileError, match="is not an index: ") as e:
            foreign.read(tmp_path)
        assert "\n" not in str(e.value)
    index.write_text(json.dumps(said))
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        NotFoundError, match=r"1 of its 3 shards are missing, such as model-00002-of-00003\.safetensors"
    ):
        foreign.read(tmp_path)
    index.unlink()
    with pytest.raises(NotFoundError, match=r"is one of 3 shards; 1 are missing, such as model-00002"):
        foreign.read(tmp_path)


# --- Files and folders ------------------------------------------------------------------------------------------------


def test_a_folder_with_its_config(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"not read: the same weights as a pickle")
    (tmp_path / "config.json").write_text('{"layers": 2, "rate": 1e-05}')
    read = foreign.read(tmp_path)
    assert read.path.name == "diffusion_pytorch_model.safetensors"
    assert read.config == {"layers": 2, "rate": 1e-05}


def test_a_yaml_config_beside_a_file(tmp_path):
    torch.save(W, tmp_path / "model.ckpt")
    (tmp_path / "config.yaml").write_text("model:\n  embed_dim: 4\n")
    assert foreign.read(tmp_path / "model.ckpt").config == {"model": {"embed_dim": 4}}


def test_the_config_of_the_run_that_a_checkpoint_is_from(tmp_path):
    """The folders of taming-transformers and latent-diffusion; two configs do not say which one it is."""
    file, configs = tmp_path / "checkpoints" / "last.safetensors", tmp_path / "configs"
    file.parent.mkdir()
    configs.mkdir()
    save_file({"a": torch.ones(1)}, file)
    assert foreign.read(file).config is None
    (configs / "2021-lightning.yaml").write_text("trainer: 1\n")
    (configs / "2021-project.yaml").write_text("model:\n  target: a.B\n")
    assert foreign.read(file).config == {"model": {"target": "a.B"}}
    (configs / "2022-project.yaml").write_text("model:\n  target: a.C\n")
    assert foreign.read(file).config is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"[1]"),
        ("config.json", b"{"),
        ("config.json", b"[" * 100_000),
        ("config.json", b"\xff"),
        ("config.json", b" " * (1 << 20) + b"{}"),
        ("config.yaml", b"a: &x 1"),
    ],
)
def test_a_config_that_is_none(tmp_path, name, content):
    torch.save(W, tmp_path / "a.pt")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidFileError, match=name) as e:
        foreign.read(tmp_path / "a.pt")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["m.PTH", "m.pth.tar", "m.ckpt.tar", "M.BIN", "weights", "m.model", "m.safetensors"])
def test_a_file_is_known_by_its_content(tmp_path, name):
    torch.save(W, tmp_path / name)
    (tmp_path / "log.txt").write_text("epoch 1")
    (tmp_path / f"._{name}").write_bytes(b"\0\5\x16\7")  # what macOS leaves
    for path in (tmp_path, tmp_path / name):
        assert same(foreign.read(path).tensors, W)
    save_file(W, tmp_path / name)
    assert same(foreign.read(tmp_path).tensors, W)


def test_the_other_states_of_a_trainer_are_not_weights(tmp_path):
    for name in ("pytorch_model.bin", "optimizer.bin", "scheduler.pt", "random_states_0.pkl", "training_args.bin"):
        torch.save(W, tmp_path / name)
    assert foreign.read(tmp_path).path.name == "pytorch_model.bin"


def test_a_variant_is_not_taken_for_the_weights(tmp_path):
    for name in ("model.safetensors", "model.fp16.safetensors", "model.non_ema.safetensors"):
        save_file(W, tmp_path / name)
    assert foreign.read(tmp_path).path.name == "model.safetensors"


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 1484996\n"
PAGE = b"\n<!DOCTYPE html><html><body>Sign in</body></html>"


@pytest.mark.parametrize(("data", "told"), [(POINTER, "a git-lfs pointer: "), (PAGE, "an HTML page: ")])
@pytest.mark.parametrize("name", ["m.safetensors", "m.pt", "config.json", "config.yaml", "m.safetensors.index.json"])
def test_what_stands_for_a_file_is_named(tmp_path, data, told, name):
    save_file(W, tmp_path / "m.safetensors")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidFileError, match=told) as e:
        foreign.read(tmp_path / "m.pt" if name == "m.pt" else tmp_path / name if "index" in name else tmp_path)
    assert "\n" not in str(e.value) and name in str(e.value)


def test_which_file_of_a_folder(tmp_path):
    with pytest.raises(NotFoundError, match=r"there is no checkpoint at .*none\.pt$"):
        foreign.read(tmp_path / "none.pt")
    with pytest.raises(NotFoundError, match=r"contains no weights \(\.safetensors, "):
        foreign.read(tmp_path)
    (tmp_path / "unet").mkdir()
    torch.save(W, tmp_path / "unet" / "a.bin")
    with pytest.raises(NotFoundError, match="contains no weights; its folders unet contain some: name one"):
        foreign.read(tmp_path)
    torch.save(W, tmp_path / "a.pt")
    torch.save(W, tmp_path / "b.ckpt")
    with pytest.raises(UsageError, match=r"contains several weights files: a\.pt, b\.ckpt; name one"):
        foreign.read(tmp_path)


# --- Hostile files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """Every hostile file, read in a process of its own that an audit hook watches."""
    folder = tmp_path_factory.mktemp("hostile")
    hostile.write(folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("read_hostile.py")), str(folder)]
    child = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return folder, json.loads(child.stdout)


@pytest.mark.slow
def test_hostile_files_are_read_right_or_refused_in_a_line(attacked):
    folder, report = attacked
    wrong = {}
    for name, result in report["files"].items():
        outcome = result["outcome"]
        if name.startswith("right"):
            fine = outcome == "read [1.0, 2.0, 3.0, 4.0]"
        else:
            fine = outcome.startswith(f"refused {folder}/{name}.pt") and "\n" not in outcome and "\x1b" not in outcome
        if not fine or len(outcome) > 500:
            wrong[name] = outcome
    assert not wrong
    assert len(report["files"]) > 150


@pytest.mark.slow
def test_hostile_files_run_import_and_open_nothing(attacked):
    folder, report = attacked
    assert {name: r["events"] for name, r in report["files"].items() if r["events"]} == {}
    assert not (folder / "canary").exists()
    assert all(file.suffix == ".pt" for file in folder.iterdir())


@pytest.mark.slow
def test_hostile_files_cost_little_memory(attacked):
    _, report = attacked
    assert report["mebibytes"] < 150  # the bombs among them want 200 MiB to 1 TiB


def test_the_attacks_are_real(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(hostile.state(evil=hostile.call("os.system", hostile.text(hostile.TOUCH))))
    assert (tmp_path / "canary").exists()


def test_an_endless_pickle_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickle, "MAX_OPCODES", 100)
    path = write(tmp_path / "a.pt", hostile.torch_zip(hostile.program(b"N0" * 60 + b"}")))
    with pytest.raises(InvalidFileError, match="a pickle of more than 100 opcodes"):
        foreign.read(path)


def test_damaged_files_give_tensors_or_one_kind_of_error(tmp_path):
    rng = random.Random(0)
    tree = {"state_dict": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(3)}, "epoch": 1}
    for options in CONTAINERS.values():
        torch.save(tree, tmp_path / "right.pt", **options)
        right = (tmp_path / "right.pt").read_bytes()
        for _ in range(150):
            data = bytearray(right)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.choice((rng.randrange(256), 0x2E, 0x52, 0x62, 0x51, 0x28))
            try:
                foreign.read(write(tmp_path / "bad.pt", bytes(data)))
            except ZooError as e:
                assert isinstance(e, InvalidFileError) and "\n" not in str(e)


# --- The reference files ----------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.slow
def test_reads_every_reference_as_torch_does(shared_data):
    files = [f for f in sorted((shared_data / "parity").rglob("*")) if f.suffix in weightfiles.SUFFIXES]
    assert len(files) > 20
    for file in files:
        tensors = foreign.read(file).tensors
        if file.suffix == ".safetensors":
            continue
        try:
            wanted = torch.load(file, weights_only=True)
        except pickle.UnpicklingError:
            assert "lightning" in str(file)
            continue
        for key in ("model", "state_dict"):
            wanted = wanted.get(key, wanted)
        wanted = {name: t for name, t in wanted.items() if isinstance(t, torch.Tensor)} or tensors
        assert same(tensors, wanted), file


@pytest.mark.shared
def test_a_lightning_checkpoint_that_weights_only_refuses(shared_data):
    """Its weights are those of `vqgan_f4`, with the loss's beside them."""
    folder = shared_data / "parity" / "taming"
    full = foreign.read(folder / "vqgan_f4_full_lightning_ckpt")
    plain = foreign.read(folder / "vqgan_f4").tensors
    assert "used 'state_dict', left" in full.notes[0] and "callbacks" in full.notes[0]
    own = {name: tensor for name, tensor in full.tensors.items() if name in plain}
    assert same(own, plain)
    assert all(name.startswith("loss.") for name in full.tensors.keys() - plain.keys())
