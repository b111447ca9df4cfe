"""Turns a task's torch module into its ONNX graph, with torch's exporter (`torch.onnx.export(dynamo=True)`)."""

import contextlib
import functools
import gc
import inspect
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from torch import nn
from torch._export import utils as export_utils
from torch.onnx._internal.exporter import _core, _fx_passes, _registration
from torch.onnx.errors import OnnxExporterError

from ..errors import ExportError, ZooError
from ..graph.half import widen_all
from ..graph.plain import make_plain
from ..graph.walk import graphs_of
from ..hookspecs import Port, Task
from ..text import one_line
from .bodies import move_into_bodies
from .diagnosis import hint
from .golden import TRACE, draw_inputs
from .lowering import lowered
from .shared import TRANSLATIONS as shared_translations
from .shared import SharedNetwork
from .threefry import as_one_operator
from .translations import TRANSLATIONS
from .weights import Weights

OPSET = 18
"""The lowest that torch's exporter writes without a conversion; stacks from 2023 can read it."""

MAX_OPSET = 20
"""The highest that the targets' runtimes have, for operators that a module writes into the graph itself."""

MAX_FOLDED = 1024
"""The most elements of constants that are folded at export, or merged if they are duplicates."""

IR_VERSION = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", OPSET)])


def export_task(
    module: nn.Module, name: str, task: Task, weights: Weights, path: Path, shared: SharedNetwork | None = None
) -> None:
    """Traces a task's module and writes its graph.

    Args:
        shared: the network that other tasks contain too, traced only once.

    Raises:
        ExportError: torch cannot trace it, or a dimension that is dynamic in the ports came out fixed.
    """
    if both := task.inputs.keys() & task.outputs.keys():
        raise ExportError(f"the task '{name}' has '{min(both)}' as both input and output: rename one of them")
    model = _trace_around(shared, module, name, task) if shared else _trace(module, name, task)
    if shared:
        shared.fill(model, lambda network, arguments: _trace_network(network, arguments, name))
    _simplify(model, weights)
    weights.point(model, name)
    _declare_ports(model, name, task)
    proto = ir.to_proto(model)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version = "zoo", version_of("torch")
    proto.graph.name = name
    make_plain(proto)
    for graph in graphs_of(proto.graph):
        # The tracer's own names for sizes, which every runtime infers again. In a loop's body, where the tracer gives a
        # size one name for every source, they kept ONNX Runtime from computing in place, which took 1.5 times the
        # memory.
        del graph.value_info[:]
    move_into_bodies(proto.graph)
    widen_all(proto.graph, weights.halved)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _trace_around(shared: SharedNetwork, module: nn.Module, name: str, task: Task) -> ir.Model:
    """The task with the network as one operator: without the network's weights, unless the task itself uses one."""
    try:
        with shared.in_place(emptied=True):
            return _trace(module, name, task)
    except ZooError:  # also one that has nothing to do with the weights: then it is raised again
        with shared.in_place(emptied=False):
            return _trace(module, name, task)


def _trace(module: nn.Module, name: str, task: Task) -> ir.Model:
    """The task as an ONNX program, as torch's exporter returns it."""
    arrays = draw_inputs(task, TRACE, np.random.default_rng(0))
    arguments = tuple(torch.from_numpy(array) for array in arrays.values())
    dynamic = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(port.shape) if isinstance(dim, str)}
        for port in task.inputs.values()
    )
    dynamic = _nested(dynamic, module)
    return _export(module, arguments, dynamic, name, input_names=list(task.inputs), output_names=list(task.outputs))


def _nested(dynamic: tuple, module: nn.Module) -> tuple:
    """What belongs to each parameter of `forward`: torch wants those of `*rest` as a tuple of their own."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    rest = (place for place, p in enumerate(parameters) if str(p).startswith("*") and not str(p).startswith("**"))
    before = next(rest, len(dynamic))
    return (*dynamic[:before], dynamic[before:]) if dynamic[before:] else dynamic


def _trace_network(network: nn.Module, arguments: Sequence[torch.Tensor | None], name: str) -> ir.Model:
    """A network that tasks share, with a dynamic first axis."""
    dynamic = tuple(None if argument is None else {0: torch.export.Dim.DYNAMIC} for argument in arguments)
    return _export(network, tuple(arguments), dynamic, name)


def _export(module: nn.Module, arguments: tuple, dynamic: tuple, name: str, **names: Any) -> ir.Model:
    try:
        with torch.no_grad(), _silence(), _uncollected(), _listed_once(), _traced_once(), as_one_operator():
            program = torch.export.export(module, arguments, dynamic_shapes=dynamic, strict=False)
            # What `torch.onnx.export` calls after it has made a registry, for each graph, in a third of a second.
            exported = _core.export(
                program, registry=_registry(), opset_version=OPSET, **names, optimize=False, verbose=False
            )
    except ZooError:
        raise
    except Exception as e:
        raise ExportError(f"torch cannot trace the task '{name}': {_reason(e)}") from e
    _refuse_newer(exported.model, name)
    return exported.model


def _refuse_newer(model: ir.Model, name: str) -> None:
    """Refuses operators that runtimes do not have yet, as `torch.onnx.ops` writes them; the cause has the line."""
    for node in model.graph.all_nodes():
        if node.domain == "" and (node.version or 0) > MAX_OPSET:
            cause = ValueError(node.op_type)
            cause.add_note(node.metadata_props.get("pkg.torch.onnx.stack_trace", ""))
            raise ExportError(
                f"the task '{name}' uses {node.op_type} of opset {node.version}; the targets' runtimes have at most"
                f" opset {MAX_OPSET}: use other operators"
            ) from cause


@functools.cache
def _registry() -> _registration.ONNXRegistry:
    """The translations of torch's operators. Made once: there are 500, whose source is parsed and analysed."""
    registry = _registration.ONNXRegistry.from_torchlib(OPSET)
    for operator, translation in (TRANSLATIONS | shared_translations).items():
        registry.register_op(operator, translation)
    return registry


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Pauses Python's garbage collector, which in a trace walks torch's many small objects over and over."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


_LISTING = "_materialize_cpp_cia_ops"  # its name in torch 2.13; a torch without it only takes longer
_list_operators = functools.cache(getattr(export_utils, _LISTING, lambda: None))


@contextlib.contextmanager
def _listed_once() -> Iterator[None]:
    """Keeps torch from listing its 800 composite operators several times per graph, which takes half a second; it
    does so because code may register more of them, which no trace does."""
    every_time = getattr(export_utils, _LISTING, None)
    if every_time is None:
        yield
        return
    setattr(export_utils, _LISTING, _list_operators)
    try:
        yield
    finally:
        setattr(export_utils, _LISTING, every_time)


@contextlib.contextmanager
def _traced_once() -> Iterator[None]:
    """Lets torch's exporter decompose a graph, which traces it again, only if `lowered` cannot do it."""
    decompose = _fx_passes.decompose_with_registry

    def lower(program: torch.export.ExportedProgram, registry: _registration.ONNXRegistry) -> Any:
        return lowered(program, registry) or decompose(program, registry)

    _fx_passes.decompose_with_registry = lower
    try:
        yield
    finally:
        _fx_passes.decompose_with_registry = decompose


def _reason(error: Exception) -> str:
    """Why torch cannot trace it, in one plain line; the line of the failing operator becomes a note of the error."""
    cause: BaseException = error
    # The exporter's own messages explain, in colour, how to report a bug in torch.
    while isinstance(cause, OnnxExporterError) and cause.__cause__:
        cause = cause.__cause__
    reason = re.sub(r"\x1b\[[0-9;]*m", "", str(cause))
    reason = next((line for line in reason.splitlines() if line.strip()), type(cause).__name__)
    if isinstance(error, OnnxExporterError) and (node := _node(cause)):
        error.add_note(node.stack_trace or "")
        if "sym_stride" in reason:
            reason = "a size that varies in the body of a loop"
        elif "No ONNX function found" in reason:
            operator = str(node.target).removesuffix(".default")
            reason = f"the operator {operator} has no ONNX form up to opset {OPSET}: use others"
    return one_line(reason) + hint(str(cause))


def _node(error: BaseException) -> torch.fx.Node | None:
    """The node at which torch's exporter failed: its message contains the node, but not the node's line of code."""
    nodes = [frame.f_locals.get("node") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((node for node in reversed(nodes) if isinstance(node, torch.fx.Node)), None)


def _simplify(model: ir.Model, weights: Weights) -> None:
    """Folds constants and removes unused and duplicate nodes, in loops' bodies too: the fewer nodes there are, the
    faster sessions open. Weights are kept: a folded one would be a second copy."""
    _merge_doubled(model)  # before folding, since folded results become separate tensors, which are not compared
    optimizer.fold_constants_ir(
        model,
        onnx_shape_inference=False,
        input_size_limit=MAX_FOLDED,
        output_size_limit=MAX_FOLDED,
        should_fold=lambda node: False if any(map(weights.name_of, node.inputs)) else None,
    )
    passes.IdentityEliminationPass()(model)
    _merge_doubled(model)
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.ClearMetadataAndDocStringPass(),  # it contains file names of the machine that traced
    )(model)


def _merge_doubled(model: ir.Model) -> None:
    """Merges nodes of a graph that compute the same."""
    merge = passes.CommonSubexpressionEliminationPass(size_limit=MAX_FOLDED)
    for graph in model.graphs():  # the pass only looks at a model's outermost graph
        merge(ir.Model(graph, ir_version=model.ir_version))


def _declare_ports(model: ir.Model, name: str, task: Task) -> None:
    """Writes the ports' dimension names into the graph; refuses a fixed dimension that is dynamic in the port."""
    for ports, values in ((task.inputs, model.graph.inputs), (task.outputs, model.graph.outputs)):
        if [value.name for value in values] != list(ports):
            got = ", ".join(str(value.name) for value in values)
            raise ExportError(f"the graph of '{name}' has the ports {got}; its task says {', '.join(ports)}")
        for value, port in zip(values, ports.values(), strict=True):
            _declare(value, port, name)


def _declare(value: ir.Value, port: Port, task: str) -> None:
    dims = None if value.shape is None else list(value.shape)
    if dims is not None:
        where = f"the output or input '{value.name}' of '{task}'"
        if len(dims) != len(port.shape):
            raise ExportError(f"{where} has {len(dims)} dimensions; its port says {len(port.shape)}")
        for axis, (dim, said) in enumerate(zip(dims, port.shape, strict=True)):
            if isinstance(dim, int) and dim != said:
                raise ExportError(
                    f"axis {axis} of {where} came out as {dim}; its port says {said}: "
                    "the module treats this size as fixed"
                )
    if value.dtype is not None and value.dtype.numpy() != np.dtype(port.dtype):
        raise ExportError(f"'{value.name}' of '{task}' is {value.dtype.numpy()}; its port says {port.dtype}")
    value.shape = ir.Shape(port.shape)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Silences torch's exporter, which prints to both streams, logs and warns; its errors still come through."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
