"""Translates torch operators for which the exporter's own ONNX form has more nodes than necessary."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18
from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention

op: Any = opset18
"""Not by its own types, which are those of ONNX Script: the operators of a translation take and give `ir.Value`."""


def group_norm(
    x: ir.Value,
    num_groups: int,
    weight: ir.Value | None = None,
    bias: ir.Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> ir.Value:
    """Wu and He 2018, equations 1 and 7: a group's channels, as one row, are one instance of instance normalisation.

    Args:
        x: float [N, C, ...].
        weight, bias: [C].
    """
    assert x.dtype is not None and x.shape is not None  # the exporter knows every value's
    groups = op.Reshape(x, _constant([0, num_groups, -1]))
    ones, zeros = np.ones(num_groups, x.dtype.numpy()), np.zeros(num_groups, x.dtype.numpy())
    normal = op.InstanceNormalization(groups, _constant(ones), _constant(zeros), epsilon=eps)
    sizes = list(x.shape)
    known = all(isinstance(size, int) for size in sizes[1:])
    y = op.Reshape(normal, _constant([-1, *sizes[1:]]) if known else op.Shape(x))
    axes = _constant(range(1, len(sizes) - 1))
    if weight is not None:
        y = op.Mul(y, op.Unsqueeze(_like(weight, x), axes))
    return y if bias is None else op.Add(y, op.Unsqueeze(_like(bias, x), axes))


def attention(
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    attn_mask: ir.Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> ir.Value:
    """Vaswani et al. 2017, equation 1; with a mask, shared heads or heads of dynamic size, the exporter's own form.

    Args:
        query, key, value: float [N, heads, positions, channels].
    """
    assert query.dtype is not None and query.shape is not None
    channels = query.shape[3] if len(query.shape) == 4 else None
    if attn_mask is not None or is_causal or enable_gqa or dropout_p or not isinstance(channels, int):
        options = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        aten: Any = aten_scaled_dot_product_attention  # typed as `op` is
        return aten(query, key, value, attn_mask, **options)
    factor = np.asarray(channels**-0.5 if scale is None else scale, query.dtype.numpy())
    turned = op.Transpose(key, perm=[0, 1, 3, 2])
    weights = op.Softmax(op.MatMul(op.Mul(query, _constant(factor)), turned), axis=-1)
    return op.MatMul(weights, value)


def _like(weight: ir.Value, x: ir.Value) -> ir.Value:
    return weight if weight.dtype == x.dtype else op.Cast(weight, to=x.dtype)


def _constant(value: np.ndarray | Iterable[int | ir.SymbolicDim]) -> ir.Value:
    array = value if isinstance(value, np.ndarray) else np.asarray(list(value), np.int64)
    return op.Constant(value=ir.tensor(array))


TRANSLATIONS: dict[Callable, Callable] = {
    torch.ops.aten.group_norm.default: group_norm,
    torch.ops.aten.scaled_dot_product_attention.default: attention,
}
