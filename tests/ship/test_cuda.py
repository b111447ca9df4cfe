"""What a machine without a GPU can know of CUDA: every operator of every published graph, and no copy inside a loop."""

import json
from pathlib import Path

import onnx
import pytest

from zoo.formats import manifest as manifests
from zoo.formats import registry

from . import cuda

ROOT = Path(__file__).parents[2]
GRAPHS = [
    ROOT / file.url
    for model in registry.read(ROOT, "here").document.models.values()
    for file in model.versions[max(model.versions)].files.values()
    if str(file.url).endswith(".onnx")
]
ADDS_NOISE = {"inpaint", "upscale2", "upscale4", "denoise", "colorize"}
"""Tasks whose sampler draws fresh noise at every step: docs/decisions/0006-host-loop.md says why inside the loop.
So does `generate` where it draws tokens, and every task with the sampler `consistency`."""


def test_there_are_graphs():
    assert len(GRAPHS) >= 10


@pytest.mark.parametrize("path", GRAPHS, ids=lambda p: f"{p.parent.parent.name}/{p.stem}")
def test_every_operator_has_a_kernel_or_is_meant_for_the_host(path):
    assert cuda.without_kernel(onnx.load(path, load_external_data=False).graph) == set()


@pytest.mark.parametrize("path", GRAPHS, ids=lambda p: f"{p.parent.parent.name}/{p.stem}")
def test_no_loop_copies_to_the_host(path):
    draws_tokens = path.stem == "generate" and (path.parent / "prior.safetensors").exists()
    few_steps = manifests.read(path.parent).config.get("diffusion", {}).get("sampler") == "consistency"
    if path.stem in ADDS_NOISE or draws_tokens or few_steps:
        assert cuda.host_side_in_loops(onnx.load(path, load_external_data=False).graph) <= cuda.HOST_SIDE
        return
    assert cuda.host_side_in_loops(onnx.load(path, load_external_data=False).graph) == set()


def graph(text):
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {text}').graph


LOOP = """(int64 n, int64[1] x) => (int64[1] z) <bool go = {1}> {
    z = Loop(n, go, x) <body = b (int64 i, bool c, int64[1] a) => (bool d, int64[1] y) {
        d = Identity(c)
        y = %s(a, a)
    }> }"""


def test_a_host_side_operator_in_a_loop_is_found():
    assert cuda.host_side_in_loops(graph(LOOP % "BitwiseXor")) == {"BitwiseXor"}
    assert cuda.without_kernel(graph(LOOP % "BitwiseXor")) == set()
    assert cuda.host_side_in_loops(graph(LOOP % "Add")) == set()


def test_an_operator_without_a_kernel_is_found():
    assert cuda.without_kernel(graph("(float[n] x) => (float[n] y) { z = Asinh(x) y = Neg(z) }")) == {"Asinh"}


def test_the_list_is_of_onnx_s_operators():
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert known >= cuda.OPERATORS and known >= cuda.HOST_SIDE | cuda.ABSENT, json.dumps(sorted(cuda.OPERATORS - known))
