"""The products of graphs (Conv, MatMul, Gemm with a weight), their weights, and statistics of their inputs and outputs.

`fp16.py` and `int8.py` make them smaller; `precision.py` does this for a whole bundle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..graph.half import rename
from ..graph.walk import graphs_of, names_used, subgraphs

Arrays = dict[str, np.ndarray]


class Seen(NamedTuple):
    """Statistics of an activation, over some calls and all steps of a loop."""

    low: float
    high: float
    power: float  # mean square


def weights_of(graph: onnx.GraphProto) -> Iterator[tuple[onnx.GraphProto, TensorProto]]:
    """Each weight in a safetensors file, with the graph whose initializer it is."""
    for inner in graphs_of(graph):
        for tensor in list(inner.initializer):
            if tensor.data_location == TensorProto.EXTERNAL:
                yield inner, tensor


def fold_transposes(graphs: Iterable[onnx.GraphProto], arrays: Arrays) -> None:
    """Stores weights that MatMul only reads transposed in transposed form: those of linear layers over sequences.

    Args:
        arrays: the weights by name; a transposed one is replaced by `NAME.transposed`.
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
            rename(inner, node.output[0], now)
            inner.node.remove(node)
        for inner in inners:
            for tensor in inner.initializer:
                if tensor.name == name:
                    tensor.name, tensor.dims[:] = now, arrays[now].shape


@dataclass(frozen=True)
class Product:
    """A Conv, MatMul or Gemm whose second input is a weight."""

    graph: onnx.GraphProto
    node: onnx.NodeProto
    axis: int  # of the weight, along which each channel has its own scale


def is_product(node: onnx.NodeProto) -> bool:
    return node.op_type in ("Conv", "MatMul", "Gemm")


def reached(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """The outermost graph and its loops' bodies; anything deeper stays float32."""
    return [graph, *(body for _, body in loops_of(graph))]


def products_of(graph: onnx.GraphProto, arrays: Arrays, fit: set[str]) -> list[Product]:
    found = []
    for inner in reached(graph):
        for node in inner.node:
            if not is_product(node) or node.input[1] not in fit:
                continue
            weight = arrays[node.input[1]]
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            found.append(Product(inner, node, 0 if node.op_type == "Conv" or transposed else weight.ndim - 1))
    return found


def loops_of(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, onnx.GraphProto]]:
    return [(node, a.g) for node in graph.node if node.op_type == "Loop" for a in node.attribute if a.name == "body"]


def watched(product: Product) -> list[str]:
    """The values whose range must be known: a product's input and output."""
    return [product.node.input[0], product.node.output[0]]


def activations(graph: onnx.GraphProto, arrays: Arrays, fit: set[str]) -> list[str]:
    """The inputs and outputs of the products of a graph."""
    return list(dict.fromkeys(name for product in products_of(graph, arrays, fit) for name in watched(product)))


WATCHES = ("ReduceMin", "ReduceMax", "ReduceMean")
"""The reductions of an activation, and the mean of its square: the fields of `Seen`."""


def watching(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The model with statistics of some of its values as additional outputs.

    For the value NAME they are `NAME.ReduceMin` and so on; in a loop they are collected over all steps, as scan
    outputs.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    loops = loops_of(watched.graph)
    for name in names:
        loop, home = next(((node, body) for node, body in loops if makes(body, name)), (None, watched.graph))
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
    """The ranges of a part's activations from those of its whole, whose products are the same in the same order.

    None if they are not the same.
    """
    ours, theirs = (products_of(model.graph, arrays, fit) for model in (part, whole))
    if [p.node.input[1] for p in ours] != [p.node.input[1] for p in theirs]:
        return None
    found: dict[str, Seen] = {}
    for one, other in zip(ours, theirs, strict=True):
        for name, name_there in zip(watched(one), watched(other), strict=True):
            found[name] = together([found.get(name, ranges[name_there]), ranges[name_there]])
    return found


def together(seen: Iterable[Seen]) -> Seen:
    """Merges several into one; NaN if one is NaN."""
    lows, highs, powers = np.array([*seen]).T
    return Seen(float(lows.min()), float(highs.max()), float(powers.mean()))


def makes(graph: onnx.GraphProto, name: str) -> bool:
    return any(name in node.output for node in graph.node) or any(name == value.name for value in graph.input)


def point_at(graph: onnx.GraphProto, places: Mapping[str, tuple[str, Any]]) -> None:
    """Points each weight to its tensor: by name, the file and the `zoo.media.tensors.Tensor` in it."""
    for _, tensor in weights_of(graph):
        file, found = places[tensor.name]
        del tensor.external_data[:]
        for key, value in (("location", file), ("offset", found.offset), ("length", found.length)):
            tensor.external_data.add(key=key, value=str(value))
