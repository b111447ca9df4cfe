"""This folder's model on OpenVINO. From Python: run("generate", label="Sneaker", seed=7).

python run.py TASK --PORT VALUE ... --out FILE, python run.py verify: all but the runtime is in host.py.
"""

import sys

import host
import openvino

CORE = openvino.Core()


def load(graph):
    # Without the hint, OpenVINO computes in bfloat16 where the processor can: another picture.
    compiled = CORE.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda arrays: list(compiled(arrays).values())


host.load = load
run, verify = host.run, host.verify

if __name__ == "__main__":
    try:
        host.main(*sys.argv[1:])
    except (ValueError, TypeError, OSError, RuntimeError) as e:
        sys.exit(f"Error: {str(e).splitlines()[0]}")
