"""Checkpoints that attack their reader, written byte by byte. Whoever runs one of them touches the file `canary`."""

import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import torch

TOUCH = "touch canary"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def call(function: str, *arguments: bytes) -> bytes:
    """The opcodes of `module.name(*arguments)`."""
    module, name = function.rsplit(".", 1)
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def tensor(key="0", count=4, *, kind="FloatStorage", offset=0, shape=(4,), stride=(1,), pid: bytes = b"") -> bytes:
    """The opcodes of a tensor of `count` elements in the storage `key`."""
    pid = pid or b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"t"
    axes = [b"(" + b"".join(map(number, axis)) + b"t" for axis in (shape, stride)]
    return call("torch._utils._rebuild_tensor_v2", pid + b"Q", number(offset), *axes, b"\x89", b"}")


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def state(**items: bytes) -> bytes:
    """The pickle of a dict with these opcodes as values."""
    return program(b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u")


STORED = {"0": struct.pack("<4f", 1, 2, 3, 4)}


def torch_zip(pickled: bytes, storages=STORED, *, root="a", deflate=(), more=()) -> bytes:
    """A file as `torch.save` writes it; the entries named in `deflate` are compressed."""
    entries = [("data.pkl", pickled), ("byteorder", b"little"), *((f"data/{k}", v) for k, v in storages.items())]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in [(f"{root}/{name}", data) for name, data in entries] + list(more):
            method = zipfile.ZIP_DEFLATED if name.endswith(tuple(deflate) or "\0") else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


def old_file(root: bytes, keys=("0",), storages=((4, STORED["0"]),)) -> bytes:
    """A file as torch wrote it before 1.6: five pickles, then the storages."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    data = b"".join(struct.pack("<q", count) + data for count, data in storages)
    return b"".join(pickle.dumps(item, 2) for item in head) + root + pickle.dumps(list(keys), 2) + data


def saved(tree: object, **options: object) -> bytes:
    out = io.BytesIO()
    torch.save(tree, out, **options)
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return out.getvalue()


class Gadget:
    """What a pickler writes for an object whose __reduce__ names a function."""

    def __init__(self, function: object, *arguments: object):
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def files() -> dict[str, bytes]:
    """Name: file. Those whose name begins with `right` hold `w`, the numbers 1, 2, 3, 4, and are to be read."""
    import os
    import runpy

    run = call("os.system", text(TOUCH))
    importing = call("builtins.getattr", call("builtins.__import__", text("os")), text("system"))
    good = tensor()
    found: dict[str, bytes] = {}

    # Programs. What they would have made is left out of the state dict; its tensors are read.
    programs = {
        "reduce": run,
        "getattr": importing + text(TOUCH) + b"\x85R",
        "eval": call("builtins.eval", text("open('canary','w')")),
        "exec": call("builtins.exec", text("open('canary','w')")),
        "numpy": call("numpy.testing._private.utils.runstring", text("open('canary','w')"), b"}"),
        "numpy load": call("numpy.load", text("canary"), b"N\x88"),
        "torch load": call("torch.load", text("canary")),
        "hub": call("torch.hub.load", text("a/b"), text("c")),
        "inst": b"(" + text(TOUCH) + b"ios\nsystem\n",
        "obj": b"(cos\nsystem\n" + text(TOUCH) + b"o",
        "newobj": b"cos\nsystem\n(" + text(TOUCH) + b"t\x81",
        "newobj_ex": b"csubprocess\nPopen\n(" + text(TOUCH) + b"t}" + text("shell") + b"\x88s\x92",
        "stack global": b"\x8c\x02os\x8c\x06system\x93" + text(TOUCH) + b"\x85R",
        "setstate": b"cbuiltins\nobject\n)\x81}" + text("__setstate__") + b"cos\nsystem\nsb" + text(TOUCH) + b"b0N",
        "setstate of a tensor": good + text(TOUCH) + b"b0N",
        "class attribute": b"cos\nsystem\n}" + text("__module__") + text("x") + b"sb0N",
        "slots": b"cbuiltins\nobject\n)\x81N}" + text("__class__") + b"cos\nsystem\ns\x86b0N",
        "append": b"cos\nsystem\n)\x81" + text(TOUCH) + b"a",
        "setitem": b"cos\nsystem\n)\x81" + text(TOUCH) + text(TOUCH) + b"s",
        "key": b"}cos\nsystem\n" + text("x") + b"s",
        "bytearray": call("builtins.bytearray", number(1 << 40)),
        "range": call("builtins.list", call("builtins.range", number(1 << 40))),
        "name that is no module": b"c../../canary\nx y z\n)R",
        "memo index": b"Nr\xff\xff\xff\x7f",
        "self": b"}q\x05" + text("self") + b"h\x05s0N",
    }
    for name, body in programs.items():
        found[f"right zip, {name}"] = torch_zip(state(evil=body, w=good))
        found[f"right old, {name}"] = old_file(state(evil=body, w=good))
    # 200,000 are enough for the C stack of whatever recurses into them.
    found["right deep tuple"] = torch_zip(state(evil=b"N" + b"\x85" * 200_000, w=good))
    found["right deep key"] = torch_zip(state(evil=b"}N" + b"\x85" * 200_000 + b"Ns", w=good))
    found["right deep list"] = torch_zip(state(evil=b"]" + b"]" * 100_000 + b"a" * 100_000, w=good))
    found["right pickler"] = saved({"w": torch.tensor([1.0, 2, 3, 4]), "evil": Gadget(os.system, TOUCH)})
    found["right runpy"] = saved({"w": torch.tensor([1.0, 2, 3, 4]), "evil": Gadget(runpy.run_path, "canary")})
    found["root"] = torch_zip(program(run))
    found["root of an old file"] = old_file(program(run))
    found["bare pickle"] = program(run)
    found["bare pickle, protocol 0"] = b"cos\nsystem\n(S'" + TOUCH.encode() + b"'\ntR."
    found["old magic"] = program(run) + program(run)
    found["keys of an old file"] = old_file(state(w=good))[: -8 - 16 - len(pickle.dumps(["0"], 2))] + program(run)

    # What our own functions are called with.
    bad_tensors = {
        "too large shape": tensor(shape=(5,)),
        "offset": tensor(offset=1),
        "stride": tensor(stride=(2,)),
        "negative stride": tensor(stride=(-1,), offset=3),
        "negative shape": tensor(shape=(-4,)),
        "negative offset": tensor(offset=-1),
        "overflow": tensor(shape=(1 << 61, 8), stride=(0, 0)),
        "long number": tensor(shape=(1 << 4000,)),
        "rank": tensor(shape=(1,) * 17, stride=(1,) * 17),
        "unequal": tensor(stride=()),
        "shape is a truth": call("torch._utils._rebuild_tensor_v2", tensor()),
        "expanded": tensor(shape=(1 << 40,), stride=(0,)),
        "count lies up": tensor(count=8),
        "count lies down": tensor(count=2, shape=(2,)),
        "count is huge": tensor(count=1 << 60),
        "count is negative": tensor(count=-4),
        "dtype lies": tensor(kind="DoubleStorage"),
        "missing storage": tensor(key="7"),
        "storage as path": tensor(key="../../../../etc/passwd"),
        "persistent id in a persistent id": tensor(pid=tensor()),
        "persistent id of text": tensor(pid=text("storage")),
        "persistent id of calls": tensor(pid=b"(" + text("storage") + run + text("0") + text("cpu") + number(4) + b"t"),
        "persistent id as key": tensor(pid=b"(" + text("storage") + b"ctorch\nFloatStorage\n" + b"N\x85" * 9 + b"t"),
        "bytes of a number": call("torch.storage._load_from_bytes", number(1 << 40)),
        "bytes in bytes": call("torch.storage._load_from_bytes", b"C\x02\x80\x02"),
        "size of a long tuple": call("torch.Size", b"(" + b"K\x01" * 1000 + b"t"),
        "many arguments": call("torch._utils._rebuild_parameter", *[b"N"] * 1000),
        "from type": call("torch._tensor._rebuild_from_type_v2", b"N", b"N", b")", b"N"),
        "extension": b"\x82\x01",
        "text persistent id": b"P0\n",
        "buffer": b"\x97",
        "long text": b"\x8d" + struct.pack("<Q", 1 << 40) + b"x",
        "negative long": b"\x8b" + struct.pack("<i", -4),
        "long name": b"\x8c\x01a" + text("n" * 10_000) + b"\x93",
        "empty stack": b"000000R",
        "no mark": b"t",
        "name of controls": b"0" + text("\x1b[2J") + good + text("w"),
    }
    for name, body in bad_tensors.items():
        found[f"zip, {name}"] = torch_zip(state(w=body))
        found[f"old, {name}"] = old_file(state(w=body))
    found["nested names meet"] = torch_zip(
        program(b"}(" + text("a.b") + good + text("a") + b"}" + text("b") + good + b"su")
    )
    found["a thousand views"] = torch_zip(
        state(**{f"w{i}": tensor(count=1 << 20, shape=(1 << 20,)) for i in range(100)}), {"0": bytes(4 << 20)}
    )
    found["shared dicts"] = torch_zip(
        program(
            b"}"
            + text("w")
            + good
            + b"s"
            + b"".join(b"q%c}(" % i + text("a") + b"h%c" % i + text("b") + b"h%cu" % i for i in range(40))
        )
    )
    found["deep dicts"] = torch_zip(program((b"}" + text("a")) * 10_000 + good + b"s" * 10_000))

    # Containers.
    right = torch_zip(state(w=good))
    found["right plain"] = right
    found["right old plain"] = old_file(state(w=good))
    found["right with evil names"] = torch_zip(
        state(w=good),
        more=[("../../canary", b"x"), ("/tmp/canary", b"x"), ("a/../../canary", b"x"), ("a/data/../x", b"")],
    )
    found["root with dots"] = torch_zip(state(w=good), root="../..")
    found["root at the top"] = torch_zip(state(w=good)).replace(b"a/data.pkl", b"//data.pkl")
    found["two roots"] = torch_zip(state(w=good), more=[("b/data.pkl", program(run))])
    found["entry twice"] = torch_zip(state(w=good), more=[("a/data/1", bytes(16))]).replace(b"data/1", b"data/0")
    found["no data.pkl"] = right.replace(b"data.pkl", b"data.pkm")
    found["bomb in the pickle"] = torch_zip(state(w=good) + bytes(200 << 20), deflate=["data.pkl"])
    found["bomb in a storage"] = torch_zip(
        state(w=tensor(count=50 << 20, shape=(50 << 20,))), {"0": bytes(200 << 20)}, deflate=["data/0"]
    )
    found["directory that lies"] = right[:-22] + right[-22:-10] + struct.pack("<II", 1 << 31, 0) + b"\0\0"
    found["program"] = torch_zip(state(w=good), more=[("a/constants.pkl", b"")])
    found["big-endian"] = right.replace(b"little", b"bigbig")
    found["big-endian, old"] = old_file(state(w=good)).replace(b"\x88", b"\x89", 1)
    found["old, count lies"] = old_file(state(w=good), storages=((1 << 60, STORED["0"]),))
    found["old, count is negative"] = old_file(state(w=good), storages=((-1, STORED["0"]),))
    found["old, unknown key"] = old_file(state(w=good), keys=("9",))
    found["old, key is a nest"] = old_file(state(w=good), keys=((("0",),),))
    found["old, no keys"] = old_file(state(w=good), keys=())
    found["tar"] = tar()
    found["empty"] = b""
    found["text"] = b"version https://git-lfs.github.com/spec/v1\n"
    found["no tensors"] = saved({"epoch": 3})
    for length in range(1, len(right), 41):
        found[f"cut at {length}"] = right[:length]
    old = found["right old plain"]
    for length in range(1, len(old), 23):
        found[f"old, cut at {length}"] = old[:length]
    return found


def write(folder: Path) -> list[str]:
    names = []
    for name, data in files().items():
        (folder / f"{name}.pt").write_bytes(data)
        names.append(name)
    return names
