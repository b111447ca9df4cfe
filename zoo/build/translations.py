"""Translates torch operators for which the exporter's own ONNX form has more nodes than necessary."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18
from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention

from .threefry import MASK, PARITY, ROTATIONS, ROUNDS

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


def threefry2x32(key0: ir.Value, key1: ir.Value, counter0: ir.Value, counter1: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The rounds of `zoo.build.threefry`, with the same results to the bit.

    Args:
        key0, key1, counter0, counter1: int64, words 0 .. 2^32 - 1, which broadcast.
    """
    mask = _int64(MASK)

    def add(a: ir.Value, b: ir.Value) -> ir.Value:
        return op.BitwiseAnd(op.Add(a, b), mask)

    def rotate_left(x: ir.Value, bits: int) -> ir.Value:
        factor = _constant(np.asarray(2.0 ** (bits - 32), np.float64))
        low = op.Cast(op.Mul(op.Cast(x, to=ir.DataType.DOUBLE), factor), to=ir.DataType.INT64)
        return op.BitwiseOr(op.BitwiseAnd(op.Mul(x, _int64(2**bits)), mask), low)

    keys = (key0, key1, op.BitwiseXor(op.BitwiseXor(key0, key1), _int64(PARITY)))
    x0, x1 = add(counter0, key0), add(counter1, key1)
    for i in range(ROUNDS):
        x0 = add(x0, x1)
        x1 = op.BitwiseXor(rotate_left(x1, ROTATIONS[i % 8]), x0)
        if i % 4 == 3:
            n = i // 4 + 1
            x0 = add(x0, keys[n % 3])
            x1 = add(op.Add(x1, keys[(n + 1) % 3]), _int64(n))
    return x0, x1


def _int64(value: int) -> ir.Value:
    return _constant(np.asarray(value, np.int64))


def _like(weight: ir.Value, x: ir.Value) -> ir.Value:
    return weight if weight.dtype == x.dtype else op.Cast(weight, to=x.dtype)


def _constant(value: np.ndarray | Iterable[int | ir.SymbolicDim]) -> ir.Value:
    array = value if isinstance(value, np.ndarray) else np.asarray(list(value), np.int64)
    return op.Constant(value=ir.tensor(array))


TRANSLATIONS: dict[Callable, Callable] = {
    torch.ops.aten.group_norm.default: group_norm,
    torch.ops.aten.scaled_dot_product_attention.default: attention,
    torch.ops.zoo.threefry2x32.default: threefry2x32,
}
