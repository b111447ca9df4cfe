"""Attention as one operator of opset 23, compared with the five in our graphs: docs/decisions/0014-cuda-opset.md.

    python bench/attention.py [--device cuda|cpu] [--batch N] [--calls N] [--rounds N]

Shapes are those of models: heads, positions and numbers per head. Arrays stay on the device; on CUDA no node may run on
the CPU. Prints the medians of the rounds, in which both take turns, and the largest difference.
"""

import argparse
import statistics
import sys
import time

import numpy as np
import onnx
import onnxruntime

from zoo.runtime import CPU, CUDA, cuda_options

SHAPES = {
    "ddpm-fashion": (2, 49, 56),
    "guided-diffusion 64x64, middle": (4, 256, 64),
    "DiT-XL/2 at 256x256": (16, 256, 72),
    "codec's middle at 256x256": (1, 1024, 512),
    "codec's middle at 512x512": (1, 4096, 512),
}
FIVE = """
    turned = Transpose<perm = [0, 1, 3, 2]>(k)
    scaled = Mul(q, scale)
    scores = MatMul(scaled, turned)
    shares = Softmax<axis = -1>(scores)
    y = MatMul(shares, v)
"""
FORMS = {"five operators": (18, FIVE), "Attention": (23, "y = Attention(q, k, v)")}


def session_of(form: str, kind: str, head_size: int, device: str) -> onnxruntime.InferenceSession:
    opset, body = FORMS[form]
    array = f"{kind}[batch, heads, places, {head_size}]"
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]>
    g ({array} q, {array} k, {array} v) => ({array} y) {{ {body} }}"""
    model = onnx.parser.parse_model(text)
    if "scale" in body:
        scale = np.array(head_size**-0.5, np.float16 if kind == "float16" else np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(scale, "scale"))
    options = onnxruntime.SessionOptions()
    if device == "cuda":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    providers = [(CUDA, cuda_options(exact=True))] if device == "cuda" else [CPU]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.device == "cuda" and CUDA not in onnxruntime.get_available_providers():
        sys.exit("Error: ONNX Runtime has no CUDA here; --device cpu tries the rest")
    rng = np.random.default_rng(0)
    for name, (heads, places, head_size) in SHAPES.items():
        for kind in ("float", "float16"):
            arrays = rng.standard_normal((3, given.batch, heads, places, head_size), np.float32)
            arrays = arrays.astype(np.float16 if kind == "float16" else np.float32)
            bindings, milliseconds = {}, {form: [] for form in FORMS}
            for form in FORMS:
                session = session_of(form, kind, head_size, given.device)
                binding = session.io_binding()
                for port, array in zip("qkv", arrays):
                    binding.bind_ortvalue_input(port, onnxruntime.OrtValue.ortvalue_from_numpy(array, given.device, 0))
                binding.bind_output("y", given.device)
                session.run_with_iobinding(binding)
                bindings[form] = session, binding
            for _ in range(given.rounds):
                for form, (session, binding) in bindings.items():
                    start = time.perf_counter()
                    for _ in range(given.calls):
                        session.run_with_iobinding(binding)
                    milliseconds[form].append((time.perf_counter() - start) / given.calls * 1000)
            before, after = (statistics.median(milliseconds[form]) for form in FORMS)
            drawn = [binding.copy_outputs_to_cpu()[0].astype(float) for _, binding in bindings.values()]
            print(
                f"{name:32} {kind:8} five operators {before:9.3f} ms, Attention {after:9.3f} ms,"
                f" {before / after:5.2f}x, off by {np.abs(drawn[0] - drawn[1]).max():.2g}"
            )


if __name__ == "__main__":
    main()
