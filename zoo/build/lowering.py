"""From what `torch.export` gives to operators that have an ONNX form, without tracing again.

Torch's own way (`ExportedProgram.run_decompositions`) traces the whole graph twice more, a third of the time of an
export, and changes only the few operators that are rewritten here. It is taken where a graph has others: those that
write into their input, and those whose parts are translated but not they themselves.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.onnx._internal.exporter import _decomp, _registration

aten = torch.ops.aten

Form = tuple[Any, tuple, dict[str, Any]]
"""An operator with its arguments."""


def lowered(program: ExportedProgram, registry: _registration.ONNXRegistry) -> ExportedProgram | None:
    """The program with operators that the registry translates; None if it has one that must be decomposed.

    It is changed in place, either way without a change of what it computes.
    """
    if program.graph_signature.buffers_to_mutate or program.graph_signature.user_inputs_to_mutate:
        return None
    known = _translated(registry)
    graphs = [module for module in program.graph_module.modules() if isinstance(module, GraphModule)]  # and of loops
    for node in (node for module in graphs for node in module.graph.nodes if node.op == "call_function"):
        if rewrite := REWRITES.get(node.target):
            if (form := rewrite(node, *node.args, **node.kwargs)) is None:
                return None
            node.target, node.args, node.kwargs = form  # under the same name, which the signature knows
        if isinstance(node.target, torch._ops.OperatorBase) and not _is_lowered(node.target, known):
            return None
    for module in graphs:
        module.graph.eliminate_dead_code()
        module.recompile()
    return program


def _is_lowered(target: Any, known: frozenset[Any]) -> bool:
    if target in ASSERTIONS:
        return True
    return target in known and not (isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable)


@functools.cache
def _translated(registry: _registration.ONNXRegistry) -> frozenset[Any]:
    """The operators that the registry translates, those of control flow among them."""
    return frozenset(_decomp.get_onnx_implemented_overloads(registry))


# --- The operators that are rewritten: each takes the node and its arguments, and gives another form, or None ---------


def _same(node: Node, x: Node, *args: Any, **kwargs: Any) -> Form:
    """Nothing is computed: a copy without a gradient, or one on the only device that there is."""
    return aten.alias.default, (x,), {}


def _cast(node: Node, x: Node, *args: Any, **kwargs: Any) -> Form:
    dtype = node.meta["val"].dtype
    return _same(node, x) if x.meta["val"].dtype == dtype else (aten._to_copy.default, (x,), {"dtype": dtype})


def _without_dropout(node: Node, x: Node, p: float, train: bool) -> Form | None:
    return None if train else _same(node, x)


def _reversed_sub(node: Node, x: Node, other: float, alpha: float = 1) -> Form | None:
    return (aten.sub.Tensor, (other, x), {}) if alpha == 1 else None


def _renamed(to: Any) -> Callable[..., Form]:
    return lambda node, *args, **kwargs: (to, args, kwargs)


def _transposed_convolution(
    node: Node, x: Node, weight: Node, bias: Node | None = None, stride: Any = (1, 1), padding: Any = (0, 0),
    output_padding: Any = (0, 0), groups: int = 1, dilation: Any = (1, 1),
) -> Form:  # fmt: skip
    return aten.convolution.default, (x, weight, bias, stride, padding, dilation, True, output_padding, groups), {}


def _reshape(node: Node, x: Node, *args: Any) -> Form:
    """Axes that are joined or split; as it was if more than one of them is dynamic."""
    shape = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
    return (aten.reshape.default, (x, shape), {}) if shape.count(-1) <= 1 else (node.target, node.args, node.kwargs)


REWRITES: dict[Any, Callable[..., Form | None]] = {
    aten.to.dtype: _cast,
    aten.to.device: _cast,
    aten.detach.default: _same,
    aten.detach_.default: _same,
    aten.lift_fresh_copy.default: _same,
    aten.dropout.default: _without_dropout,
    aten.rsub.Scalar: _reversed_sub,
    aten.__and__.Scalar: _renamed(aten.bitwise_and.Scalar),
    aten.__and__.Tensor: _renamed(aten.bitwise_and.Tensor),
    aten.__or__.Scalar: _renamed(aten.bitwise_or.Scalar),
    aten.__or__.Tensor: _renamed(aten.bitwise_or.Tensor),
    aten.__xor__.Scalar: _renamed(aten.bitwise_xor.Scalar),
    aten.__xor__.Tensor: _renamed(aten.bitwise_xor.Tensor),
    aten.conv_transpose2d.input: _transposed_convolution,
    aten.flatten.using_ints: _reshape,
    aten.unflatten.int: _reshape,
}

ASSERTIONS = {
    aten.sym_constrain_range_for_size.default,
    aten._assert_async.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
}
"""Taken out by torch's exporter afterwards."""
