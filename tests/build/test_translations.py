"""Our forms of torch's operators against torch, in ONNX Runtime."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.build.tracing import OPSET
from zoo.build.translations import TRANSLATIONS

pytestmark = pytest.mark.slow  # tracing takes torch a second

ANY = torch.export.Dim.AUTO
BATCH = {0: ANY}
SIZES = {0: ANY, 2: ANY, 3: ANY}


def same(module: nn.Module, path: Path, traced: tuple, dynamic: tuple, others: tuple, rtol=1e-4) -> Counter:
    """Asserts that the graph gives torch's numbers for inputs of other sizes; its operators, counted."""
    program = torch.export.export(module.eval(), traced, dynamic_shapes=dynamic, strict=False)
    exported = torch.onnx.export(
        program, opset_version=OPSET, custom_translation_table=TRANSLATIONS, optimize=False, verbose=False
    )
    exported.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for arguments in (traced, others):
        fed = {port.name: tensor.numpy() for port, tensor in zip(session.get_inputs(), arguments, strict=True)}
        with torch.no_grad():
            wanted = module(*arguments).numpy()
        np.testing.assert_allclose(session.run(None, fed)[0], wanted, rtol=rtol, atol=rtol / 10)
    return Counter(node.op_type for node in exported.model.graph)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 3 + 1


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    "shape, dynamic, other",
    [((2, 6), BATCH, (5, 6)), ((2, 6, 7), BATCH, (1, 6, 7)), ((2, 6, 4, 5), SIZES, (3, 6, 9, 8))],
)
def test_group_norm(tmp_path, shape, dynamic, other, affine):
    module = nn.GroupNorm(3, 6, eps=0.1, affine=affine)
    if affine:
        nn.init.normal_(module.weight)
        nn.init.normal_(module.bias)
    counted = same(module, tmp_path / "norm.onnx", (draw(*shape),), (dynamic,), (draw(*other),))
    assert counted["InstanceNormalization"] == 1 and counted["Unsqueeze"] == 2 * affine
    assert not counted.keys() & {"Range", "CastLike", "Expand"}  # of the exporter's own form


def test_group_norm_of_halves_with_wider_weights(tmp_path):
    class Norm(nn.GroupNorm):
        def forward(self, x: Tensor) -> Tensor:
            return F.group_norm(x.half(), 3, self.weight, self.bias).float()

    same(Norm(3, 6), tmp_path / "norm.onnx", (draw(2, 6, 4),), (BATCH,), (draw(5, 6, 4),), rtol=2e-3)


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, mask, **self.options)


@pytest.mark.parametrize("options", [{}, {"scale": 0.3}], ids=str)
def test_attention(tmp_path, options):
    traced, others = [tuple(draw(n, 3, length, 8) for length in (q, k, k)) for n, q, k in ((2, 5, 7), (4, 6, 3))]
    sizes = {0: ANY, 2: ANY}
    counted = same(Attention(**options), tmp_path / "attention.onnx", traced, (sizes, sizes, sizes), others)
    assert counted["MatMul"] == 2 and not counted.keys() & {"Shape", "Slice", "Concat"}


def test_attention_with_heads_of_any_size(tmp_path):
    traced, others = [tuple(draw(2, 3, 5, size) for _ in range(3)) for size in (8, 4)]
    same(Attention(), tmp_path / "attention.onnx", traced, ({3: ANY},) * 3, others)


@pytest.mark.parametrize("options", [{"is_causal": True}, {"enable_gqa": True}, {}], ids=str)
def test_attention_with_a_mask_or_shared_heads(tmp_path, options):
    heads = 1 if "enable_gqa" in options else 3
    traced, others = [(draw(n, 3, 5, 8), draw(n, heads, 5, 8), draw(n, heads, 5, 8)) for n in (2, 4)]
    dynamic = (BATCH, BATCH, BATCH)
    if not options:
        mask = draw(5, 5) > 0
        mask[:, 0] = True  # nobody is left without a position to look at
        traced, others, dynamic = (*traced, mask), (*others, mask), (*dynamic, {})
    same(Attention(**options), tmp_path / "attention.onnx", traced, dynamic, others)
