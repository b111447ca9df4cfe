"""Checkpoints of other projects for tests: recorded ones, small ones of diffusers, and what an import makes of them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from zoo_diffusion import plugin

from tests.cli.commands import zoo
from zoo.build import foreign
from zoo.build.train import load_weights
from zoo.hookspecs import BuildRequest, Imported, ImportRequest

from . import recorded

CASES = {
    "diffusers/unet2d_ddpm": "ddpm",
    "diffusers/unet2d_class_embed": "ddpm",
    "diffusers/unet2d_default_flags": "ddpm",
    "diffusers/unet2d_scale_shift": "ddpm",
    "openai/adm_scale_shift_sigma": "ddpm",
    "openai/improved_class_plain": "ddpm",
    "dit/dit_p2_sigma": "dit",
    "dit/dit_p4_nosigma_nodrop": "dit",
    "diffusers/dit_tiny": "dit",
}


def importing(family: str, path: Path, **over) -> Imported | None:
    read = foreign.read(path)
    said = {"tensors": read.tensors, "config": read.config} | over
    return plugin.import_checkpoint(ImportRequest(family=family, path=read.path, **said))


def rebuilt(family: str, imported: Imported) -> nn.Module:
    module = plugin.build_module(BuildRequest(family=family, config=imported.config))
    load_weights(module, imported.state_dict)
    return module.eval()


def given(folder: Path, number: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
    """A case's inputs under our names, and its output."""
    io = recorded.io(folder)
    names = {"x": ("x", "sample"), "t": ("t", "timestep"), "label": ("y", "class_labels")}
    inputs = {ours: io[name][:number] for ours, known in names.items() for name in known if name in io}
    return inputs | {"t": inputs["t"].float()}, io["out"][:number]


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """1e-4 relative, to each value or, near 0, to the largest of the output."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def imported(tmp_path: Path, monkeypatch, family: str, source: Path, *words: object) -> tuple[Path, str]:
    """The bundle that `zoo import` makes of a checkpoint, with these options, and what it says."""
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    out = tmp_path / "bundle"
    outcome = zoo("import", family, source, "--out", out, *words)
    assert outcome.code == 0, outcome.err
    return out, outcome.err


def unet2d(**over) -> tuple[dict, dict[str, Tensor]]:
    """A small checkpoint of diffusers' UNet2DModel, config and tensors."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "norm_num_groups": 4,
    } | over
    model = UNet2DModel(**config)
    return config, model.state_dict()


def write_unet2d(folder: Path, tensors: dict[str, Tensor], config: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refused(tmp_path: Path, monkeypatch, family: str, path: Path, code: int = 4) -> str:
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    before = {p.name for p in tmp_path.iterdir()} | {"home"}
    outcome = zoo("import", family, path, "--out", tmp_path / "out")
    assert outcome.code == code and outcome.out == "", outcome.err
    error = outcome.err.splitlines()[-1]
    assert error.startswith("Error: ") and {p.name for p in tmp_path.iterdir()} <= before
    return error
