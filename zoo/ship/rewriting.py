"""Graphs with smaller weights: stored in 16 bits, computed in 16 too, or computed in 8.

float16: weights are stored in half precision and widened where they are used, so that every stack computes in float32
as before, from the same rounded weights; for stacks that compute in half precision, products do, but for those whose
activations come near the end of its range. int8: convolutions and matrix products compute in 8 bits, between nodes
QuantizeLinear and DequantizeLinear (QDQ), with ranges of activations that were seen on real inputs; those keep float32
that 8 bits are too few for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..graph.walk import graphs_of, names_used, subgraphs

MIN_ELEMENTS = 256
"""Smaller weights (biases, scales) stay as they are: they cost nothing and matter most."""

Arrays = dict[str, np.ndarray]


class Seen(NamedTuple):
    """What an activation was, over some calls and all steps of a loop."""

    low: float
    high: float
    power: float  # mean square


def weights_of(graph: onnx.GraphProto) -> Iterator[tuple[onnx.GraphProto, TensorProto]]:
    """Each weight that lies in a safetensors file, with the graph that it is an initializer of."""
    for inner in graphs_of(graph):
        for tensor in list(inner.initializer):
            if tensor.data_location == TensorProto.EXTERNAL:
                yield inner, tensor


def fold_transposes(graphs: Iterable[onnx.GraphProto], arrays: Arrays) -> None:
    """Stores the weights that are only read transposed, by MatMul, that way round: linear layers over sequences.

    Args:
        arrays: the weights by name; in the place of one that is turned comes `NAME.transposed`.
    """
    inners = [inner for graph in graphs for inner in graphs_of(graph)]
    turned: dict[str, list[tuple[onnx.GraphProto, onnx.NodeProto]]] = {}
    otherwise: set[str] = set()
    for inner in inners:
        second = {node.input[1] for node in inner.node if node.op_type == "MatMul"}
        others = {n for node in inner.node for i, n in enumerate(node.input) if node.op_type != "MatMul" or i != 1}
        others |= {output.name for output in inner.output}
        others |= {name for node in inner.node for body in subgraphs(node) for name in names_used(body)}
        for node in inner.node:
            perm = [list(a.ints) for a in node.attribute if a.name == "perm"]
            if node.op_type == "Transpose" and perm == [[1, 0]] and node.output[0] in second - others:
                turned.setdefault(node.input[0], []).append((inner, node))
            else:
                otherwise.update(node.input)
    for name in sorted(turned.keys() & arrays.keys() - otherwise):
        now = f"{name}.transposed"
        arrays[now] = np.ascontiguousarray(arrays.pop(name).T)
        for inner, node in turned[name]:
            _rename(inner, node.output[0], now)
            inner.node.remove(node)
        for inner in inners:
            for tensor in inner.initializer:
                if tensor.name == name:
                    tensor.name, tensor.dims[:] = now, arrays[now].shape


# --- float16 ----------------------------------------------------------------------------------------------------------


HALF_LIMIT = 65504 / 16
"""Products with larger activations than this keep float32.

A sixteenth of the largest half: what was seen are a few real inputs, and others go beyond; and WebGPU adds a product up
in half precision too, where a part of the sum may be larger than the whole.
"""


def halve(graph: onnx.GraphProto, arrays: Arrays, ranges: Mapping[str, Seen] | None = None) -> tuple[int, list[str]]:
    """Stores the large float32 weights of a graph in half precision, and widens them in the graph.

    A weight that half precision cannot hold (over 65504, or rounded away by more than 1 %) stays float32.

    Args:
        arrays: the weights by name, or those of them that are meant; those that are stored anew are replaced.
        ranges: what each of the `activations` was: products compute in half precision too, but for those that come near
            the end of its range. None: all compute in float32.

    Returns:
        How many products compute in half precision, and the weights of those that keep float32.
    """
    products = _products(graph, arrays, halvable(arrays)) if ranges is not None else []
    weights = [p.node.input[1] for p in products]
    for inner, tensor in weights_of(graph):
        name = tensor.name
        if name not in arrays:
            continue
        half = arrays[name] if arrays[name].dtype == np.float16 else _half(arrays[name])
        if half is None:
            continue
        arrays[name] = half
        tensor.data_type = TensorProto.FLOAT16
        _rename(inner, name, f"{name}.wide")
        inner.node.insert(0, helper.make_node("Cast", [name], [f"{name}.wide"], to=TensorProto.FLOAT))
    kept = []
    narrow: dict[tuple[str, str], str] = {}  # a graph and a value in it: the same in half precision
    for product, weight in zip(products, weights, strict=True):
        if ranges is not None and _fits_half(product.node, arrays, ranges):
            _compute_in_half(product, weight, narrow)
        else:
            kept.append(weight)
    _drop_unused_casts(graph)
    return len(products) - len(kept), kept


def halvable(arrays: Arrays) -> set[str]:
    """The weights that half precision holds."""
    return {name for name, array in arrays.items() if array.dtype == np.float16 or _half(array) is not None}


def _fits_half(node: onnx.NodeProto, arrays: Arrays, ranges: Mapping[str, Seen]) -> bool:
    seen = (ranges[node.input[0]], ranges[node.output[0]])
    bounds = [b for s in seen for b in (s.low, s.high, s.power**0.5)]  # of many values, a mean shows NaN for sure
    if len(node.input) == 3 and node.input[2]:
        bias = arrays.get(node.input[2].removesuffix(".wide"))
        bounds.append(np.inf if bias is None else float(np.abs(bias).max()))
    return all(abs(bound) <= HALF_LIMIT for bound in bounds)  # NaN is not


def _compute_in_half(product: _Product, weight: str, narrow: dict[tuple[str, str], str]) -> None:
    """A product between casts; none where another in half precision makes its input."""
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
    """Has ONNX Runtime's CPU provider round what `halve` left in half precision.

    It has no kernels for half precision there: it computes in float32, and drops the casts between as it goes, so that
    nothing is rounded and nothing overflows. It keeps them where something computes in half precision, as `Max` of one
    value does.
    """
    for inner in graphs_of(graph):
        for at, node in reversed(list(enumerate(inner.node))):
            if node.output and node.output[0].endswith(".half"):
                result = node.output[0]
                node.output[0] = f"{result}.exact"
                inner.node.insert(at + 1, helper.make_node("Max", [f"{result}.exact"], [result]))


def in_half(graph: onnx.GraphProto) -> list[str]:
    """The values that `halve` left in half precision."""
    return [n for inner in _reached(graph) for node in inner.node for n in node.output if n.endswith(".half")]


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


# --- int8 -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Product:
    """A Conv, MatMul or Gemm whose second input is a weight."""

    graph: onnx.GraphProto
    node: onnx.NodeProto
    axis: int  # of the weight, along which each channel has a scale of its own


def quantizable(graphs: Iterable[onnx.GraphProto], arrays: Arrays) -> set[str]:
    """The weights that only products read, in all graphs of a model: what else reads one needs it as it is."""
    read: set[str] = set()
    multiplied: set[str] = set()

    def look(graph: onnx.GraphProto, reached: bool, outermost: bool) -> None:
        for node in graph.node:
            for place, name in enumerate(node.input):
                (multiplied if reached and place == 1 and _is_product(node) else read).add(name)
            for body in subgraphs(node):
                look(body, outermost and node.op_type == "Loop", False)

    for graph in graphs:
        look(graph, True, True)
    large = {name for name, array in arrays.items() if array.dtype == np.float32 and array.size >= MIN_ELEMENTS}
    return (multiplied - read) & large


def _is_product(node: onnx.NodeProto) -> bool:
    return node.op_type in ("Conv", "MatMul", "Gemm")


def _reached(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """The outermost graph and its loops' bodies; what lies deeper stays float32."""
    return [graph, *(body for _, body in _loops(graph))]


def _products(graph: onnx.GraphProto, arrays: Arrays, fit: set[str]) -> list[_Product]:
    found = []
    for inner in _reached(graph):
        for node in inner.node:
            if not _is_product(node) or node.input[1] not in fit:
                continue
            weight = arrays[node.input[1]]
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            found.append(_Product(inner, node, 0 if node.op_type == "Conv" or transposed else weight.ndim - 1))
    return found


def _loops(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, onnx.GraphProto]]:
    return [(node, a.g) for node in graph.node if node.op_type == "Loop" for a in node.attribute if a.name == "body"]


def _watched(product: _Product) -> list[str]:
    """What must be known the range of: a product's input and output."""
    return [product.node.input[0], product.node.output[0]]


def activations(graph: onnx.GraphProto, arrays: Arrays, fit: set[str]) -> list[str]:
    """What goes into and comes out of the products of a graph."""
    return list(dict.fromkeys(name for product in _products(graph, arrays, fit) for name in _watched(product)))


WATCHES = ("ReduceMin", "ReduceMax", "ReduceMean")
"""What is collected of an activation, and of its square the mean: the fields of `Seen`."""


def watching(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The model with what some of its values were as outputs besides.

    Of the value NAME they are `NAME.ReduceMin` and so on; in a loop they are collected over all steps, as scan outputs.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    loops = _loops(watched.graph)
    for name in names:
        loop, home = next(((node, body) for node, body in loops if _makes(body, name)), (None, watched.graph))
        wide, square = f"{name}.float", f"{name}.square"
        home.node.append(helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT))
        home.node.append(helper.make_node("Mul", [wide, wide], [square]))
        for kind, value in zip(WATCHES, (wide, wide, square), strict=True):
            seen = f"{name}.{kind}"
            if loop is not None:
                home.node.append(helper.make_node(kind, [value], [f"{seen}.step"], keepdims=0))
                home.output.append(helper.make_tensor_value_info(f"{seen}.step", TensorProto.FLOAT, []))
                loop.output.append(f"{seen}.steps")
                value = f"{seen}.steps"
            watched.graph.node.append(helper.make_node(kind, [value], [seen], keepdims=0))
            watched.graph.output.append(helper.make_tensor_value_info(seen, TensorProto.FLOAT, []))
    return watched


def ranges_of_part(
    part: onnx.ModelProto,
    whole: onnx.ModelProto,
    ranges: Mapping[str, Seen],
    arrays: Arrays,
    fit: set[str],
) -> dict[str, Seen] | None:
    """The ranges of a part's activations out of those of its whole, whose products are the same in the same order.

    None where they are not the same.
    """
    ours, theirs = (_products(model.graph, arrays, fit) for model in (part, whole))
    if [p.node.input[1] for p in ours] != [p.node.input[1] for p in theirs]:
        return None
    found: dict[str, Seen] = {}
    for one, other in zip(ours, theirs, strict=True):
        for name, name_there in zip(_watched(one), _watched(other), strict=True):
            found[name] = together([found.get(name, ranges[name_there]), ranges[name_there]])
    return found


def together(seen: Iterable[Seen]) -> Seen:
    """One for several; NaN where one is."""
    lows, highs, powers = np.array([*seen]).T
    return Seen(float(lows.min()), float(highs.max()), float(powers.mean()))


def _makes(graph: onnx.GraphProto, name: str) -> bool:
    return any(name in node.output for node in graph.node) or any(name == value.name for value in graph.input)


COARSE = 0.025
"""A product keeps float32 where rounding its input to 8 bits makes noise of more than this share of it, as root mean
squares: 32 dB. Of such inputs, with a few values far beyond the rest, 256 levels leave few for the rest."""

NARROW = 4
"""A Conv from or to so few channels keeps float32: that is where pixels go in and out, and little is computed."""


def delicate(graph: onnx.GraphProto, arrays: Arrays, fit: set[str], ranges: Mapping[str, Seen]) -> set[str]:
    """The weights of the products that 8 bits are too few for."""
    found = set()
    for product in _products(graph, arrays, fit):
        name, seen = product.node.input[1], ranges[product.node.input[0]]
        narrow = product.node.op_type == "Conv" and min(arrays[name].shape[:2]) <= NARROW
        if narrow or not _level(seen) / 12**0.5 <= COARSE * seen.power**0.5:
            found.add(name)
    return found


def _level(seen: Seen) -> float:
    """The width of one of 256 levels from the smallest to the largest value, 0 among them."""
    return max(max(seen.high, 0.0) - min(seen.low, 0.0), 1e-8) / 255


def quantize(graph: onnx.GraphProto, arrays: Arrays, fit: set[str], ranges: Mapping[str, Seen]) -> None:
    """Makes the products of a graph compute in 8 bits.

    Args:
        arrays: the weights by name; quantized ones become int8, and their scales are added as `NAME.scale`.
        fit: what `quantizable` says of all graphs of the model, without what `delicate` says of any.
        ranges: what each of the `activations` was.
    """
    done: set[tuple[str, str]] = set()
    for product in _products(graph, arrays, fit):
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
    """int8 and a scale a channel, symmetric. 7 bits: 8 overflow where a processor adds pairs in 16 bits."""
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
    """Puts Quantize and Dequantize around an activation: before `into`, or for None behind `node`. Its scale."""
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
    """A Conv's bias as int32 in the scale of its sums, as the integer kernel wants it; kept in the graph."""
    small = np.rint(arrays[name].astype(np.float64) / scale).clip(-(2**31), 2**31 - 1).astype(np.int32)
    place = f"{name}.{len(graph.initializer)}"
    graph.initializer.append(onnx.numpy_helper.from_array(small, f"{place}.small"))
    graph.initializer.append(onnx.numpy_helper.from_array(scale.astype(np.float32), f"{place}.scale"))
    node = helper.make_node("DequantizeLinear", [f"{place}.small", f"{place}.scale"], [f"{place}.wide"], axis=0)
    graph.node.insert(0, node)
    return f"{place}.wide"


def _rename(graph: onnx.GraphProto, before: str, after: str) -> None:
    """Renames a value wherever the graph and those inside it read it."""
    for inner in graphs_of(graph):
        for node in inner.node:
            node.input[:] = [after if name == before else name for name in node.input]
        for output in inner.output:
            output.name = after if output.name == before else output.name


def point_at(graph: onnx.GraphProto, places: Mapping[str, tuple[str, Any]]) -> None:
    """Points each weight at its tensor: by name, the file and the `zoo.media.tensors.Tensor` in it."""
    for _, tensor in weights_of(graph):
        file, found = places[tensor.name]
        del tensor.external_data[:]
        for key, value in (("location", file), ("offset", found.offset), ("length", found.length)):
            tensor.external_data.add(key=key, value=str(value))
