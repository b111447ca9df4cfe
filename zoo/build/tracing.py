"""A task's torch module to its ONNX graph, through `torch.onnx.export(dynamo=True)`."""

import contextlib
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from importlib.metadata import version as version_of
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from torch import nn
from torch.onnx.errors import OnnxExporterError

from ..errors import ExportError, ZooError
from ..graph.walk import graphs_of
from ..hookspecs import Port, Task
from ..text import safe_text
from .bodies import move_into_bodies
from .golden import TRACE, draw_inputs
from .translations import TRANSLATIONS
from .weights import Weights

OPSET = 18
"""The lowest that torch's exporter writes without a conversion; stacks as old as 2023 read it."""

MAX_FOLDED = 1024
"""Elements that a constant may have to be computed at export, or to be held once where it stood twice."""

IR_VERSION = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", OPSET)])


def export_task(module: nn.Module, name: str, task: Task, weights: Weights, path: Path) -> None:
    """Traces a task's module and writes its graph.

    Raises:
        ExportError: torch can't trace it, or a dimension that the ports call dynamic came out fixed.
    """
    if shared := task.inputs.keys() & task.outputs.keys():
        raise ExportError(
            f"the task '{name}' has '{min(shared)}' as input and output; a graph has one value of a name: rename one"
        )
    model = _trace(module, name, task)
    _simplify(model, weights)
    weights.point(model, name)
    _declare_ports(model, name, task)
    proto = ir.to_proto(model)
    proto.ir_version = IR_VERSION
    proto.producer_name, proto.producer_version = "zoo", version_of("torch")
    proto.graph.name = name
    for graph in graphs_of(proto.graph):
        # The tracer's own names of sizes; every runtime infers them anew. In a loop's body, where the tracer has a name
        # for every place that a size comes from, they kept ONNX Runtime from computing in place: half again the memory.
        del graph.value_info[:]
    move_into_bodies(proto.graph)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _trace(module: nn.Module, name: str, task: Task) -> ir.Model:
    """The task in ONNX's terms, as torch's exporter gives it."""
    arrays = draw_inputs(task, TRACE, np.random.default_rng(0))
    arguments = tuple(torch.from_numpy(array) for array in arrays.values())
    dynamic = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, dim in enumerate(port.shape) if isinstance(dim, str)}
        for port in task.inputs.values()
    )
    try:
        with torch.no_grad(), _silence():
            program = torch.export.export(module, arguments, dynamic_shapes=dynamic, strict=False)
            exported = torch.onnx.export(
                program,
                input_names=list(task.inputs),
                output_names=list(task.outputs),
                opset_version=OPSET,
                custom_translation_table=TRANSLATIONS,
                dynamo=True,
                optimize=False,
                verbose=False,
            )
    except ZooError:
        raise
    except Exception as e:
        raise ExportError(f"torch cannot trace the task '{name}': {_reason(e)}") from e
    assert exported is not None  # with `dynamo`, always a program
    return exported.model


def _reason(error: Exception) -> str:
    """Why torch can't, in one plain line; the line of an operator that is to blame becomes a note of the error."""
    cause: BaseException = error
    # Those of the exporter tell, in colour, how to report a bug of torch.
    while isinstance(cause, OnnxExporterError) and cause.__cause__:
        cause = cause.__cause__
    reason = re.sub(r"\x1b\[[0-9;]*m", "", str(cause))
    reason = next((line for line in reason.splitlines() if line.strip()), type(cause).__name__)
    if isinstance(error, OnnxExporterError) and (node := _node(cause)):
        error.add_note(node.stack_trace or "")
        if "No ONNX function found" in reason:
            reason = f"the operator {str(node.target).removesuffix('.default')} has no ONNX form"
    return safe_text(reason)[:500]


def _node(error: BaseException) -> torch.fx.Node | None:
    """What torch's exporter was at when it failed: it writes the node into its message, but not the node's own line."""
    nodes = [frame.f_locals.get("node") for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((node for node in reversed(nodes) if isinstance(node, torch.fx.Node)), None)


def _simplify(model: ir.Model, weights: Weights) -> None:
    """Folds constants, drops what is unused or doubled, in loops' bodies too: sessions open the faster the fewer nodes
    there are. Weights stay: a folded one would be a second copy."""
    _merge_doubled(model)  # what is folded becomes a tensor of its own, and those are not compared
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
        passes.ClearMetadataAndDocStringPass(),  # it names files of the machine that traced
    )(model)


def _merge_doubled(model: ir.Model) -> None:
    """One node for those of a graph that compute the same."""
    merge = passes.CommonSubexpressionEliminationPass(size_limit=MAX_FOLDED)
    for graph in model.graphs():  # the pass looks at a model's outermost graph alone
        merge(ir.Model(graph, ir_version=model.ir_version))


def _declare_ports(model: ir.Model, name: str, task: Task) -> None:
    """Writes the ports' dimension names into the graph; refuses a fixed dimension that a port calls dynamic."""
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
                    "the module computes with a size as if it were fixed"
                )
    if value.dtype is not None and value.dtype.numpy() != np.dtype(port.dtype):
        raise ExportError(f"'{value.name}' of '{task}' is {value.dtype.numpy()}; its port says {port.dtype}")
    value.shape = ir.Shape(port.shape)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Torch's exporter talks on both streams, through logging and through warnings; its errors still come through."""
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
