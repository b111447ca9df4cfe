"""Traces a network once, for all tasks that call it.

Tracing takes about as long as the network has operators, and a sampler's tasks differ only in what they do around the
same network. So while a task is traced, the network's `forward` is one operator, `zoo::network`; afterwards its nodes,
which were traced once, are put into the task's graph in place of that operator.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass
from onnxscript import evaluator
from torch import Tensor, nn

DOMAIN, NAME = "zoo", "network"


@torch.library.custom_op(f"{DOMAIN}::{NAME}", mutates_args=())
def _network(inputs: list[Tensor], shape: list[int]) -> Tensor:
    raise NotImplementedError("a place holder that is only traced")


@_network.register_fake
def _(inputs: list[Tensor], shape: list[int]) -> Tensor:
    return inputs[0].new_empty((inputs[0].shape[0], *shape))


def _translate(inputs: Sequence[ir.Value], shape: Sequence[int]) -> ir.Value:
    node = ir.Node(DOMAIN, NAME, list(inputs), num_outputs=1)
    recorder: Any = evaluator.default()  # the exporter's, which collects the nodes of the operator it is at
    recorder.nodes.append(node)
    return node.outputs[0]


TRANSLATIONS: dict[Callable, Callable] = {torch.ops.zoo.network.default: _translate}


class _FirstCall(Exception):
    """Ends a task at its first call of the network."""


class SharedNetwork:
    """A network whose `forward` is traced once.

    It takes tensors whose first axis is the batch, or None, and gives one such tensor; all other axes are fixed.
    """

    def __init__(self, network: nn.Module, arguments: Sequence[Tensor | None], output: Tensor):
        self.network, self.arguments, self.shape = network, tuple(arguments), list(output.shape[1:])
        self._function: ir.Function | None = None
        self._weights: list[ir.Value] = []

    @classmethod
    def of(
        cls, module: nn.Module, tasks: Mapping[str, nn.Module], draw: Callable[[str], Sequence[Tensor]]
    ) -> "SharedNetwork | None":
        """The network with the arguments that the first task that calls it passes; None if no class says `trace_once`,
        or if a call is not of the form that can be shared.

        Args:
            module: the model: the network, or one of its parts is.
            tasks: the tasks' modules, which contain the network.
            draw: a task's inputs.
        """
        network = next((part for part in module.modules() if getattr(part, "trace_once", False)), None)
        if network is None:
            return None
        found: list[SharedNetwork] = []

        def record(network: nn.Module, arguments: tuple, output: Any) -> None:
            given = [a for a in arguments if a is not None]
            tensors = given and all(isinstance(a, Tensor) and a.dim() for a in (*given, output))
            if tensors and {a.shape[0] for a in given} == {output.shape[0]}:
                found.append(cls(network, arguments, output))
            raise _FirstCall

        handle = network.register_forward_hook(record)
        try:
            for name, task in tasks.items():
                with torch.no_grad(), contextlib.suppress(_FirstCall):
                    task(*draw(name))
                if found:
                    return found[0]
        finally:
            handle.remove()
        return None

    @contextlib.contextmanager
    def in_place(self, *, emptied: bool) -> Iterator[None]:
        """While a task is traced: calls of the network are one operator, if they are like the recorded call.

        Args:
            emptied: the network has no weights and parts meanwhile. The exporter would carry each weight through all of
                its passes, although the operator needs none. A task that uses one, or calls the network otherwise,
                fails.
        """

        def forward(*arguments: Tensor | None) -> Tensor:
            if self._is_like(arguments):
                return torch.ops.zoo.network([a for a in arguments if a is not None], self.shape)
            if emptied:
                raise RuntimeError("a call that is unlike the recorded one needs the weights")
            return type(self.network).forward(self.network, *arguments)

        attributes = vars(self.network)
        emptied_ones = {name: attributes[name] for name in ("_modules", "_parameters", "_buffers") if emptied}
        attributes.update({name: {} for name in emptied_ones}, forward=forward)
        try:
            yield
        finally:
            del self.network.forward
            attributes.update(emptied_ones)

    def _is_like(self, arguments: Sequence[Tensor | None]) -> bool:
        return len(arguments) == len(self.arguments) and all(
            a is b is None or (a is not None and b is not None and a.dtype == b.dtype and a.shape[1:] == b.shape[1:])
            for a, b in zip(arguments, self.arguments, strict=True)
        )

    def fill(self, model: ir.Model, trace: Callable[[nn.Module, Sequence[Tensor | None]], ir.Model]) -> None:
        """Puts the network's nodes in place of the operator, in a task's graph and in the bodies of its loops.

        Args:
            trace: traces the network itself, with a dynamic first axis.
        """
        calls = [node for graph in model.graphs() for node in graph if (node.domain, node.op_type) == (DOMAIN, NAME)]
        if not calls:
            return
        if self._function is None:
            self._function, self._weights = _as_function(trace(self.network, self.arguments))
        used = {id(_tensor(value)): value for value in model.graph.initializers.values()}  # by the task itself
        weights = []
        for weight in self._weights:
            value = used.get(id(_tensor(weight)))
            if value is None:
                name = f"{NAME}.{weight.name}"
                value = ir.Value(name=name, shape=weight.shape, type=weight.type, const_value=weight.const_value)
                model.graph.register_initializer(value)
            weights.append(value)
        for node in calls:
            given = len(node.inputs)
            node.resize_inputs(given + len(weights))
            for i, value in enumerate(weights):
                node.replace_input_with(given + i, value)
        model.functions[self._function.identifier()] = self._function
        model.opset_imports[DOMAIN] = 1
        InlinePass()(model)


def _tensor(value: ir.Value) -> Any:
    """The module's own tensor behind an initializer."""
    return getattr(value.const_value, "raw", value.const_value)


def _as_function(model: ir.Model) -> tuple[ir.Function, list[ir.Value]]:
    """A traced network as a function, and its weights, which follow its own inputs: functions have no initializers."""
    graph = model.graph
    weights = list(graph.initializers.values())
    graph.initializers.clear()
    values = []
    for weight in weights:
        taken = ir.Value(name=weight.name, shape=weight.shape, type=weight.type)
        ir.convenience.replace_all_uses_with(weight, taken)
        graph.inputs.append(taken)
        values.append(weight)
    return ir.Function(DOMAIN, NAME, graph=graph, attributes=[]), values
