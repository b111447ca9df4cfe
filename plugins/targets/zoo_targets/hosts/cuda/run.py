"""This folder's model on an NVIDIA GPU, with ONNX Runtime. From Python: run("generate", label="Sneaker", seed=7).

python run.py TASK --PORT VALUE ... --out FILE, python run.py verify: everything but the runtime is in host.py. It
computes on the GPU or not at all; only the integers of a seed's noise are drawn on the CPU.
"""

import sys

import host  # before onnxruntime: it turns telemetry off
import onnxruntime

# TF32 has 10 bits of mantissa: faster, but different pictures. Set to True if that is acceptable.
OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}


def load(graph):
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA's libraries, as installed by pip
    onnxruntime.set_default_logger_severity(4)
    providers = [("CUDAExecutionProvider", OPTIONS), "CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise RuntimeError("this ONNX Runtime has no CUDA: pip install 'onnxruntime-gpu[cuda,cudnn]'")
    session = onnxruntime.InferenceSession(graph, providers=providers, enable_fallback=0)
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError("ONNX Runtime could not use CUDA: no GPU or driver, or its libraries do not load")
    return lambda arrays: session.run(None, arrays)


host.load = load
run, verify = host.run, host.verify

if __name__ == "__main__":
    try:
        host.main(*sys.argv[1:])
    except (ValueError, TypeError, OSError, RuntimeError) as e:
        sys.exit(f"Error: {str(e).splitlines()[0]}")
