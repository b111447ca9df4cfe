"""This folder's model on OpenVINO. From Python: run("generate", label="Sneaker", seed=7).

python run.py TASK --PORT VALUE ... --out FILE, python run.py verify: everything but the runtime is in host.py.
"""

import os
import sys

import host
import seeds

sys.modules["openvino_telemetry"] = None  # else importing OpenVINO writes into ~/intel and sends an event to Google
if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() == "SSE41":
    # Held back like this, OpenVINO 2026.4 computes no convolution: it raises, or gives arrays of size 0.
    print("ONEDNN_MAX_CPU_ISA=SSE41 is ignored, since OpenVINO fails with it", file=sys.stderr)
    del os.environ["ONEDNN_MAX_CPU_ISA"]
import openvino  # noqa: E402

CORE = openvino.Core()
# Integers have 32 bits here, so graphs take the noise as an input, and seeds become noise before the call.
with_noise = seeds.take_seeds(host.MODEL["tasks"])


def load(graph):
    # Without the hint, OpenVINO computes in bfloat16 if the processor can, which gives another picture.
    compiled = CORE.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda arrays: list(compiled(with_noise(graph.stem, arrays)).values())


host.load = load
run, verify = host.run, host.verify

if __name__ == "__main__":
    try:
        host.main(*sys.argv[1:])
    except (ValueError, TypeError, OSError, RuntimeError) as e:
        sys.exit(f"Error: {str(e).splitlines()[0]}")
