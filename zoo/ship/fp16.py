"""Weights in 16 bits: stored in half precision and widened where they are used.

Every stack then computes in float32 as before, from the same rounded weights. For stacks that compute in half precision
products do so too, except those whose activations come close to the end of its range.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..graph.half import MIN_ELEMENTS, widen
from ..graph.walk import graphs_of, names_used
from .products import Arrays, Product, Seen, products_of, reached, weights_of

HALF_LIMIT = 65504 / 16
"""Products with larger activations than this keep float32.

A sixteenth of the largest half-precision number, because other inputs exceed the few that were measured, and because
WebGPU also accumulates in half precision, where a partial sum may be larger than the result.
"""


def halve(graph: onnx.GraphProto, arrays: Arrays, ranges: Mapping[str, Seen] | None = None) -> tuple[int, list[str]]:
    """Stores the large float32 weights of a graph in half precision, and widens them in the graph.

    A weight that does not fit half precision (over 65504, or changed by more than 1 % by rounding) stays float32.

    Args:
        arrays: the weights by name, or those of them to change; changed ones are replaced.
        ranges: the statistics of the `activations`: products compute in half precision too, except those close to the
            end of its range. None: all compute in float32.

    Returns:
        The number of products that compute in half precision, and the weights of those that keep float32.
    """
    products = products_of(graph, arrays, halvable(arrays)) if ranges is not None else []
    weights = [p.node.input[1] for p in products]
    for inner, tensor in weights_of(graph):
        name = tensor.name
        if name not in arrays:
            continue
        half = arrays[name] if arrays[name].dtype == np.float16 else _half(arrays[name])
        if half is None:
            continue
        arrays[name] = half
        widen(inner, tensor)
    kept = []
    narrow: dict[tuple[str, str], str] = {}  # (graph, value in it): the same value in half precision
    for product, weight in zip(products, weights, strict=True):
        if ranges is not None and _fits_half(product.node, arrays, ranges):
            _compute_in_half(product, weight, narrow)
        else:
            kept.append(weight)
    _drop_unused_casts(graph)
    return len(products) - len(kept), kept


def halvable(arrays: Arrays) -> set[str]:
    """The weights that fit half precision."""
    return {name for name, array in arrays.items() if array.dtype == np.float16 or _half(array) is not None}


def _fits_half(node: onnx.NodeProto, arrays: Arrays, ranges: Mapping[str, Seen]) -> bool:
    seen = (ranges[node.input[0]], ranges[node.output[0]])
    bounds = [b for s in seen for b in (s.low, s.high, s.power**0.5)]  # of many values, only a mean always shows a NaN
    if len(node.input) == 3 and node.input[2]:
        bias = arrays.get(node.input[2].removesuffix(".wide"))
        bounds.append(np.inf if bias is None else float(np.abs(bias).max()))
    return all(abs(bound) <= HALF_LIMIT for bound in bounds)  # false for NaN


def _compute_in_half(product: Product, weight: str, narrow: dict[tuple[str, str], str]) -> None:
    """Puts a product between casts; without one if its input comes from another product in half precision."""
    graph, node = product.graph, product.node
    at = next(i for i, other in enumerate(graph.node) if other.output == node.output)
    result = node.output[0]
    node.input[1] = weight
    casts = []
    for place in (0, *range(2, len(node.input))):
        name = node.input[place]
        if (graph.name, name) not in narrow:
            narrow[graph.name, name] = f"{result}.{place}.half"
            casts.append(helper.make_node("Cast", [name], [f"{result}.{place}.half"], to=TensorProto.FLOAT16))
        node.input[place] = narrow[graph.name, name]
    node.output[0] = narrow[graph.name, result] = f"{result}.half"
    graph.node.insert(at + 1, helper.make_node("Cast", [f"{result}.half"], [result], to=TensorProto.FLOAT))
    for cast in casts:
        graph.node.insert(at, cast)


def round_in_half(graph: onnx.GraphProto) -> None:
    """Makes ONNX Runtime's CPU provider round the values that `halve` left in half precision.

    The provider has no kernels for half precision: it computes in float32 and removes the casts in between, so that
    nothing is rounded and nothing overflows. It keeps them around an operator that computes in half precision, such as
    `Max` of one value.
    """
    for inner in graphs_of(graph):
        for at, node in reversed(list(enumerate(inner.node))):
            if node.output and node.output[0].endswith(".half"):
                result = node.output[0]
                node.output[0] = f"{result}.exact"
                inner.node.insert(at + 1, helper.make_node("Max", [f"{result}.exact"], [result]))


def in_half(graph: onnx.GraphProto) -> list[str]:
    """The values that `halve` left in half precision."""
    return [n for inner in reached(graph) for node in inner.node for n in node.output if n.endswith(".half")]


def _drop_unused_casts(graph: onnx.GraphProto) -> None:
    for inner in graphs_of(graph):
        used = names_used(inner)
        for node in [n for n in inner.node if n.op_type == "Cast" and n.output[0] not in used]:
            inner.node.remove(node)


def _half(array: np.ndarray) -> np.ndarray | None:
    if array.dtype != np.float32 or array.size < MIN_ELEMENTS:
        return None
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    off = np.abs(half.astype(np.float32) - array).max()
    return half if np.isfinite(half).all() and off <= 0.01 * np.abs(array).max() else None
