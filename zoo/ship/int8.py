"""Products in 8 bits, between QuantizeLinear and DequantizeLinear nodes (QDQ).

The ranges of activations are measured on real inputs. Products for which 8 bits are not enough keep float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..graph.half import MIN_ELEMENTS
from ..graph.walk import subgraphs
from .products import Arrays, Seen, is_product, products_of, weights_of


def quantizable(graphs: Iterable[onnx.GraphProto], arrays: Arrays) -> set[str]:
    """The weights that only products read, in all graphs of a model: any other reader needs a weight unchanged."""
    read: set[str] = set()
    multiplied: set[str] = set()

    def look(graph: onnx.GraphProto, reached: bool, outermost: bool) -> None:
        for node in graph.node:
            for place, name in enumerate(node.input):
                (multiplied if reached and place == 1 and is_product(node) else read).add(name)
            for body in subgraphs(node):
                look(body, outermost and node.op_type == "Loop", False)

    for graph in graphs:
        look(graph, True, True)
    large = {name for name, array in arrays.items() if array.dtype == np.float32 and array.size >= MIN_ELEMENTS}
    return (multiplied - read) & large


COARSE = 0.025
"""A product keeps float32 if rounding its input to 8 bits adds noise of more than this share of it (ratio of root mean
squares): 32 dB. In such inputs, a few values are far beyond the rest, and few of the 256 levels are left for the
rest."""


NARROW = 4
"""A Conv from or to so few channels keeps float32: this is where pixels go in and out, and it is cheap to compute."""


def delicate(graph: onnx.GraphProto, arrays: Arrays, fit: set[str], ranges: Mapping[str, Seen]) -> set[str]:
    """The weights of the products for which 8 bits are not enough."""
    found = set()
    for product in products_of(graph, arrays, fit):
        name, seen = product.node.input[1], ranges[product.node.input[0]]
        narrow = product.node.op_type == "Conv" and min(arrays[name].shape[:2]) <= NARROW
        if narrow or not _level(seen) / 12**0.5 <= COARSE * seen.power**0.5:
            found.add(name)
    return found


def _level(seen: Seen) -> float:
    """The width of one of 256 levels from the smallest to the largest value, including 0."""
    return max(max(seen.high, 0.0) - min(seen.low, 0.0), 1e-8) / 255


def quantize(graph: onnx.GraphProto, arrays: Arrays, fit: set[str], ranges: Mapping[str, Seen]) -> None:
    """Makes the products of a graph compute in 8 bits.

    Args:
        arrays: the weights by name; quantized ones become int8, and their scales are added as `NAME.scale`.
        fit: what `quantizable` returns for all graphs of the model, without what `delicate` returns for any.
        ranges: the statistics of the `activations`.
    """
    done: set[tuple[str, str]] = set()
    for product in products_of(graph, arrays, fit):
        node, inner = product.node, product.graph
        weight = node.input[1]
        if arrays[weight].dtype != np.int8:
            arrays[weight], arrays[f"{weight}.scale"] = _quantized(arrays[weight], product.axis)
        if (inner.name, weight) not in done:
            done.add((inner.name, weight))
            _dequantize_weight(graph, inner, weight, product.axis)
        scale = _activation(inner, node, node.input[0], ranges, into=node)
        node.input[1] = f"{weight}.wide"
        if node.op_type == "Conv":
            if len(node.input) == 3 and node.input[2] in arrays and arrays[node.input[2]].dtype == np.float32:
                node.input[2] = _bias(inner, node.input[2], arrays, scale * arrays[f"{weight}.scale"])
            _activation(inner, node, node.output[0], ranges, into=None)


def _quantized(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 with one scale per channel, symmetric. Uses 7 bits: 8 overflow on processors that add pairs in 16 bits."""
    others = tuple(i for i in range(array.ndim) if i != axis)
    scale = np.maximum(np.abs(array).max(axis=others), 1e-12).astype(np.float32) / 63
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    return np.clip(np.rint(array / scale.reshape(shape)), -63, 63).astype(np.int8), scale


def _dequantize_weight(graph: onnx.GraphProto, inner: onnx.GraphProto, name: str, axis: int) -> None:
    for holder, tensor in weights_of(graph):
        if tensor.name == name and tensor.data_type == TensorProto.FLOAT:
            tensor.data_type = TensorProto.INT8
            scale = TensorProto(name=f"{name}.scale", data_type=TensorProto.FLOAT, dims=[tensor.dims[axis]])
            scale.data_location = TensorProto.EXTERNAL
            holder.initializer.append(scale)
    node = helper.make_node("DequantizeLinear", [name, f"{name}.scale"], [f"{name}.wide"], axis=axis)
    inner.node.insert(0, node)


def _activation(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    name: str,
    ranges: Mapping[str, Seen],
    into: onnx.NodeProto | None,
) -> float:
    """Puts Quantize and Dequantize around an activation: before `into`, or for None after `node`. Returns its scale."""
    low, scale = min(ranges[name].low, 0.0), _level(ranges[name])
    zero = int(np.clip(round(-low / scale), 0, 255))
    place = f"{name}.{node.output[0]}.in" if into is not None else f"{name}.out"
    graph.initializer.append(helper.make_tensor(f"{place}.scale", TensorProto.FLOAT, [], [scale]))
    graph.initializer.append(helper.make_tensor(f"{place}.zero", TensorProto.UINT8, [], [zero]))
    at = next(i for i, other in enumerate(graph.node) if other.output == node.output)
    constants = [f"{place}.scale", f"{place}.zero"]
    if into is not None:
        source, result = name, f"{place}.wide"
        node.input[0] = result
    else:
        source, result, at = f"{name}.exact", name, at + 1
        node.output[0] = source
    graph.node.insert(at, helper.make_node("DequantizeLinear", [f"{place}.small", *constants], [result]))
    graph.node.insert(at, helper.make_node("QuantizeLinear", [source, *constants], [f"{place}.small"]))
    return scale


def _bias(graph: onnx.GraphProto, name: str, arrays: Arrays, scale: np.ndarray) -> str:
    """A Conv's bias as int32 in the scale of its sums, as the integer kernel needs it; kept in the graph."""
    small = np.rint(arrays[name].astype(np.float64) / scale).clip(-(2**31), 2**31 - 1).astype(np.int32)
    place = f"{name}.{len(graph.initializer)}"
    graph.initializer.append(onnx.numpy_helper.from_array(small, f"{place}.small"))
    graph.initializer.append(onnx.numpy_helper.from_array(scale.astype(np.float32), f"{place}.scale"))
    node = helper.make_node("DequantizeLinear", [f"{place}.small", f"{place}.scale"], [f"{place}.wide"], axis=0)
    graph.node.insert(0, node)
    return f"{place}.wide"
