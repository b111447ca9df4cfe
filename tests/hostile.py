"""Bundles of strangers that harm who runs them: a graph each, in the ports of `tests.tiny`."""

from pathlib import Path

import msgspec

from tests import tiny
from zoo.formats import manifest as manifests
from zoo.graph import check
from zoo.names import MANIFEST

PORT = "uint8[batch,height,width,1]"
HEAD = f'<ir_version: 8, opset_import: ["" : 17]>\ng ({PORT} image) => ({PORT} doubled)'

GRAPHS = {
    # `check` refuses it; the worker must survive those that nobody knows yet.
    "null": """{ levels = Cast<to = 1>(image)  most = Max(levels, , levels)  doubled = Cast<to = 2>(most) }""",
    "endless": """<int64 n = {9223372036854775807}, bool go = {1}> {
      doubled = Loop(n, go, image) <body = step (int64 i, bool keep, uint8[batch,height,width,1] a)
        => (bool more, uint8[batch,height,width,1] b) { more = Identity(keep)  b = Identity(a) }> }""",
    "one kernel": """<int64[2] shape = {12000, 12000}> {
      levels = Cast<to = 1>(image)  mean = ReduceMean<keepdims = 0>(levels)
      a = Expand(mean, shape)  b = MatMul(a, a)  sum = ReduceSum<keepdims = 0>(b)
      level = Cast<to = 2>(sum)  doubled = Add(image, level) }""",
    "memory": """<int64[2] shape = {100000, 100000}> {
      levels = Cast<to = 1>(image)  mean = ReduceMean<keepdims = 0>(levels)
      a = Expand(mean, shape)  sum = ReduceSum<keepdims = 0>(a)
      level = Cast<to = 2>(sum)  doubled = Add(image, level) }""",
    "five channels": """<int64[4] five = {1, 1, 1, 5}> { doubled = Tile(image, five) }""",
    "flat": """<int64[1] all = {-1}> { doubled = Reshape(image, all) }""",
    "empty": """<int64[1] zero = {0}, int64[1] axis = {0}> { doubled = Slice(image, zero, zero, axis) }""",
}  # fmt: skip


# As many nodes as the check allows: it takes ONNX Runtime minutes to open the graph.
_CHAIN = check.MAX_NODES - 2
_nodes = " ".join(f"a{n + 1} = Add(a{n}, a{n})" for n in range(_CHAIN))
GRAPHS["many nodes"] = f"{{ a0 = Cast<to = 1>(image) {_nodes} doubled = Cast<to = 2>(a{_CHAIN}) }}"


def bundle(folder: Path, kind: str) -> Path:
    """A bundle with one of these graphs, whose digests are right."""
    import onnx

    tiny.bundle(folder)
    model = onnx.parser.parse_model(f"{HEAD} {GRAPHS[kind]}")
    onnx.save_model(model, folder / "double.onnx")
    return restate(folder)


def restate(folder: Path) -> Path:
    """Writes the digests of a bundle's files into its manifest again."""
    m = manifests.read(folder)
    files = {name: manifests.describe_file(folder / name) for name in m.files}
    (folder / MANIFEST).write_bytes(manifests.dump(msgspec.structs.replace(m, files=files)))
    return folder
