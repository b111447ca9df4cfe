"""C++: a CMake project with one source file, on ONNX Runtime's C++ API."""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo.errors import NotFoundError
from zoo.hookspecs import RunTargetRequest, WriteTargetRequest

from .common import copy_host, example, run_program, write_readme

HEADER = "onnxruntime_cxx_api.h"


def write(request: WriteTargetRequest) -> None:
    copy_host(request, ["CMakeLists.txt", "main.cpp"])
    commands = [
        ("cmake -S . -B build && cmake --build build", "needs ONNX Runtime's headers, 1.17 or newer"),
        ("build/run verify", "runs the golden cases"),
        (example(request, "build/run"), "a call"),
    ]
    notes = """
The headers come from the distribution's `libonnxruntime-dev` or from a release; `-DONNXRUNTIME_INCLUDE=FOLDER` sets
another folder. The library is opened when the program starts: `libonnxruntime.so.1`, or the file given with
`-DONNXRUNTIME_LIBRARY=FILE`, or the one in the environment variable ONNXRUNTIME_LIBRARY, e.g. the one in Python's
`onnxruntime/capi/`. So the program runs with any ONNX Runtime that is at least as new as the headers. `main.cpp` has a
class `Model` and a command line, which takes pictures as PNG (8 bits per channel, not interlaced, without
transparency), PGM, PPM or `.npy`; `build/run --help` lists the tasks and what they take.
"""
    write_readme(request, "C++", commands, notes)


def headers() -> str:
    """The folder of ONNX Runtime's C++ headers: ONNXRUNTIME_INCLUDE, else the system's; empty if there are none."""
    places = [os.environ.get("ONNXRUNTIME_INCLUDE", ""), "/usr/include/onnxruntime", "/usr/local/include/onnxruntime"]
    return next((place for place in places if place and (Path(place) / HEADER).is_file()), "")


def library() -> str:
    """ONNX Runtime's library: ONNXRUNTIME_LIBRARY, else the one in Python's package, else the system's, by name."""
    import importlib.util

    if named := os.environ.get("ONNXRUNTIME_LIBRARY"):
        return named
    spec = importlib.util.find_spec("onnxruntime")
    found = sorted(Path(spec.origin).parent.glob("capi/libonnxruntime.so*")) if spec and spec.origin else []
    return str(found[0]) if found else "libonnxruntime.so.1"


def missing() -> str:
    """What is missing for compiling; empty if nothing is."""
    if not shutil.which("cmake") or not (shutil.which("c++") or shutil.which("g++")):
        return "cmake or a C++ compiler"
    return "" if headers() else "ONNX Runtime's C++ headers (libonnxruntime-dev)"


def build(folder: Path, build_folder: Path) -> Path:
    """Compiles the host; returns the path of the program."""
    places = [f"-DONNXRUNTIME_INCLUDE={headers()}", f"-DONNXRUNTIME_LIBRARY={library()}"]
    run_program(["cmake", "-S", str(folder), "-B", str(build_folder), *places], folder, "cmake is not installed")
    run_program(["cmake", "--build", str(build_folder)], folder, "cmake is not installed")
    return build_folder / "run"


def run(request: RunTargetRequest) -> str:
    if lacks := missing():
        raise NotFoundError(f"{lacks} is not installed; ONNXRUNTIME_INCLUDE sets the headers' folder")
    with TemporaryDirectory(prefix="zoo-cpp-") as place:
        program = build(request.folder, Path(place))
        run_program([str(program), "verify", "--out", str(request.out)], request.folder, "the program does not exist")
    return f"C++ on {Path(library()).name}"
