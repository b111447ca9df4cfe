"""A module's tensors in their safetensors files, and the initializers that point there."""

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from safetensors.torch import save_file
from torch import nn

from ..errors import ExportError
from ..media import tensors

MAX_CONSTANT_BYTES = 16 << 10
"""A tensor that is no weight may stay in a graph up to this size: a table of 4,096 floats does, a folded copy of a
weight does not. Beyond it a family registers a buffer, so that its bytes are in the safetensors, once."""


class Weights:
    """The module's tensors in their safetensors files, found again by identity: the same memory is the same weight."""

    def __init__(self, module: nn.Module, files: Sequence[str], folder: Path):
        self.folder = folder
        state = module.state_dict()
        if left := [name for name in state if not any(_belongs(name, file, files) for file in files)]:
            raise ExportError(f"the tensor '{left[0]}' belongs to none of the weight files {', '.join(files)}")
        for name, tensor in state.items():  # infinity may be meant: a mask's
            if tensor.is_floating_point() and tensor.isnan().any():
                raise ExportError(f"the tensor '{name}' holds NaN; such a model computes nothing: train it anew")
        self.places: dict[str, tuple[str, tensors.Tensor]] = {}
        for file in files:
            mine = {name: tensor.detach() for name, tensor in state.items() if _belongs(name, file, files)}
            if not mine:
                continue  # a part that this config has not, e.g. no prior
            path = folder / f"{file}.safetensors"
            # Clones, since tied weights share memory, which the format does not know.
            save_file({name: tensor.contiguous().clone() for name, tensor in mine.items()}, path)
            self.places |= {name: (path.name, place) for name, place in tensors.read_header(path).items()}
        self.names = {_identity(tensor): name for name, tensor in reversed(state.items())}

    def name_of(self, value: ir.Value | None) -> str | None:
        """The name in the `state_dict`; None for a value that is no tensor of the module."""
        tensor = getattr(value.const_value, "raw", None) if value is not None and value.is_initializer() else None
        return self.names.get(_identity(tensor)) if isinstance(tensor, torch.Tensor) else None

    def point(self, model: ir.Model, task: str) -> None:
        """Names the initializers as the `state_dict` does, and points them into the files."""
        for graph in model.graphs():
            for value in list(graph.initializers.values()):
                tensor, name = value.const_value, self.name_of(value)
                if tensor is None or name is None:
                    _refuse_large(tensor, task)
                    continue
                file, place = self.places[name]
                value.name = name
                value.const_value = ir.ExternalTensor(
                    location=file,
                    offset=place.offset,
                    length=place.length,
                    dtype=tensor.dtype,
                    shape=ir.Shape(place.shape),
                    name=name,
                    base_dir=self.folder,
                )
            for node in graph:
                for attribute in node.attributes.values():
                    if attribute.type == ir.AttributeType.TENSOR:
                        _refuse_large(attribute.value, task)


def _belongs(name: str, file: str, files: Sequence[str]) -> bool:
    return tuple(files) == ("model",) or name.startswith(f"{file}.")


def _identity(tensor: torch.Tensor) -> tuple:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _refuse_large(tensor: ir.TensorProtocol | None, task: str) -> None:
    if tensor is not None and tensor.nbytes > MAX_CONSTANT_BYTES:
        raise ExportError(
            f"the task '{task}' holds a constant {list(tensor.shape)} of {tensor.nbytes:,} bytes that is no tensor of "
            f"the model; at most {MAX_CONSTANT_BYTES:,}: use the model's own tensors, not copies, or register a buffer"
        )
