"""Writes a module's tensors to safetensors files, and points initializers to them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from safetensors.torch import save_file
from torch import nn

from ..errors import ExportError
from ..graph.half import MIN_ELEMENTS
from ..media import tensors

MAX_CONSTANT_BYTES = 16 << 10
"""A tensor that is not a weight may stay in a graph up to this size: a table of 4,096 floats fits, a folded copy of a
weight does not. For a larger one, a family registers a buffer, so that it is stored once, in the safetensors."""

MAX_FILE_BYTES = 2_000_000_000
"""Larger weights are several files: 32-bit runtimes and browsers address at most 2 GiB of a file."""


class Weights:
    """The module's tensors in their safetensors files, identified by memory: the same memory is the same weight."""

    def __init__(
        self,
        module: nn.Module,
        files: Sequence[str],
        folder: Path,
        *,
        max_bytes: int = MAX_FILE_BYTES,
        halved: Collection[str] = (),
    ):
        """Writes the files.

        Args:
            halved: names of tensors that are stored in half precision; see `round_to_half`.

        Raises:
            ExportError: a tensor belongs to none of the files, or contains NaN.
        """
        self.folder, self.halved = folder, halved
        state = module.state_dict()
        if left := [name for name in state if not any(_belongs(name, file, files) for file in files)]:
            raise ExportError(f"the tensor '{left[0]}' does not belong to any of the weight files {', '.join(files)}")
        for name, tensor in state.items():  # infinity may be intended, as in a mask
            if tensor.is_floating_point() and tensor.isnan().any():
                raise ExportError(f"the tensor '{name}' contains NaN, so the model is unusable: train it again")
        self.places: dict[str, tuple[str, tensors.Tensor]] = {}
        for file in files:
            mine = {name: tensor.detach() for name, tensor in state.items() if _belongs(name, file, files)}
            if not mine:
                continue  # a part that this config does not have, e.g. a prior
            for stored_in, shard in _shards(file, mine, max_bytes, halved):
                path = folder / stored_in
                narrow = {name: tensor.half() if name in halved else tensor for name, tensor in shard.items()}
                save_file(_untied(narrow), path)
                self.places |= {name: (path.name, place) for name, place in tensors.read_header(path).items()}
        self.names = {_identity(tensor): name for name, tensor in reversed(state.items())}

    def name_of(self, value: ir.Value | None) -> str | None:
        """The name in the `state_dict`; None for a value that is not a tensor of the module."""
        tensor = getattr(value.const_value, "raw", None) if value is not None and value.is_initializer() else None
        return self.names.get(_identity(tensor)) if isinstance(tensor, torch.Tensor) else None

    def point(self, model: ir.Model, task: str) -> None:
        """Names the initializers as in the `state_dict`, and points them into the files."""
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
                    dtype=ir.DataType.FLOAT16 if name in self.halved else tensor.dtype,
                    shape=ir.Shape(place.shape),
                    name=name,
                    base_dir=self.folder,
                )
            for node in graph:
                for attribute in node.attributes.values():
                    if attribute.type == ir.AttributeType.TENSOR:
                        _refuse_large(attribute.value, task)


def _shards(
    file: str, tensors: Mapping[str, torch.Tensor], max_bytes: int, halved: Collection[str]
) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The tensors by the name of their file: one, or several that are named as huggingface_hub names shards.

    Each has at most `max_bytes` of tensors, in their order, or a single tensor that is larger.
    """
    shards: list[dict[str, torch.Tensor]] = []
    room = 0
    for name, tensor in tensors.items():
        size = tensor.nbytes // 2 if name in halved else tensor.nbytes
        if not shards or size > room:
            shards.append({})
            room = max_bytes
        shards[-1][name] = tensor
        room -= size
    for number, shard in enumerate(shards, start=1):
        part = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        yield f"{file}{part}.safetensors", shard


def _untied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, copied where they share memory, which the format does not support, or are not contiguous.

    Others are not copied: those of a large model would not fit into memory twice.
    """
    result, seen = {}, set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone(memory_format=torch.contiguous_format) if storage in seen else tensor.contiguous()
        seen.add(storage)
    return result


@torch.no_grad()
def round_to_half(module: nn.Module) -> frozenset[str]:
    """Rounds a module's large weights to half precision, in place, and returns their names in the `state_dict`.

    They stay float32 in memory: processors compute in it, so torch and ONNX Runtime do the same with the same numbers.
    Biases, norms, buffers and a weight over 65504, which half precision does not have, stay as they are.
    """
    rounded = set()
    for name, weight in module.named_parameters(remove_duplicate=False):
        if weight.dtype == torch.float32 and weight.numel() >= MIN_ELEMENTS and weight.dim() > 1:
            half = weight.half()
            if not half.isinf().any():
                weight.copy_(half)
                rounded.add(name)
    return frozenset(rounded)


def _belongs(name: str, file: str, files: Sequence[str]) -> bool:
    return tuple(files) == ("model",) or name.startswith(f"{file}.")


def _identity(tensor: torch.Tensor) -> tuple:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _refuse_large(tensor: ir.TensorProtocol | None, task: str) -> None:
    if tensor is not None and tensor.nbytes > MAX_CONSTANT_BYTES:
        raise ExportError(
            f"the task '{task}' contains a constant {list(tensor.shape)} of {tensor.nbytes:,} bytes, not a tensor of "
            f"the model; at most {MAX_CONSTANT_BYTES:,}: use the model's own tensors, not copies, or register a buffer"
        )
