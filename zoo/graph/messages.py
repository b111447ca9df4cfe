"""ONNX's protobuf messages, without the rest of the onnx package.

`import onnx` also registers the schemas of all operators and imports numpy and more, which takes 0.1 s; reading a
graph only needs the module that protobuf generated.
"""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

_NAME = "onnx.onnx_ml_pb2"


def _generated() -> Any:
    """The generated module. It is not put into `sys.modules`: a later `import onnx` imports it as usual, and protobuf
    gives the same classes for the same messages."""
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    package = find_spec("onnx")
    folder = next(iter(package.submodule_search_locations or ()), "") if package else ""
    file = Path(folder) / "onnx_ml_pb2.py"
    if folder and file.is_file() and (spec := spec_from_file_location(_NAME, file)) and spec.loader:
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    import onnx  # a version that is laid out differently, or the error that it is not installed

    return onnx


if TYPE_CHECKING:
    from onnx import (
        GraphProto,
        ModelProto,
        NodeProto,
        TensorProto,
        ValueInfoProto,
    )  # fmt: skip
else:
    _module = _generated()
    GraphProto, ModelProto, NodeProto = _module.GraphProto, _module.ModelProto, _module.NodeProto
    TensorProto, ValueInfoProto = _module.TensorProto, _module.ValueInfoProto
