"""Client of a Triton server that serves this folder. From Python: run("generate", label="Sneaker", seed=7).

python run.py TASK --PORT VALUE ... --out FILE, python run.py verify. TRITON_URL is the server (localhost:8000, or for
grpc localhost:8001), TRITON_PROTOCOL is http (binary tensors), json (the same as JSON over HTTP) or grpc.
"""

import os
import sys

import host
import numpy as np

PROTOCOL = os.environ.get("TRITON_PROTOCOL", "http")
URL = os.environ.get("TRITON_URL", "localhost:8001" if PROTOCOL == "grpc" else "localhost:8000")
if PROTOCOL == "grpc":
    import tritonclient.grpc as client
else:
    import tritonclient.http as client

TYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}


def load(graph):
    task = host.MODEL["tasks"][graph.stem]
    server, name = client.InferenceServerClient(URL), f"{host.MODEL['name']}_{graph.stem}"
    binary = {} if PROTOCOL == "grpc" else {"binary_data": PROTOCOL == "http"}
    batched = all(p["shape"][:1] == ["batch"] for p in (*task["inputs"].values(), *task["outputs"].values()))

    def call(arrays):
        inputs = []
        for port, array in arrays.items():
            shape = (
                list(array.shape) if array.ndim > batched else [*array.shape, 1]
            )  # tensors there have at least one axis
            inputs.append(client.InferInput(port, shape, TYPES[str(array.dtype)]))
            inputs[-1].set_data_from_numpy(np.ascontiguousarray(array).reshape(shape), **binary)
        outputs = [client.InferRequestedOutput(port, **binary) for port in task["outputs"]]
        result = server.infer(name, inputs, outputs=outputs)
        arrays = [result.as_numpy(port).astype(declared["dtype"]) for port, declared in task["outputs"].items()]
        return [a.reshape(a.shape[: len(p["shape"])]) for a, p in zip(arrays, task["outputs"].values(), strict=True)]

    return call


host.load = load
run, verify = host.run, host.verify

if __name__ == "__main__":
    try:
        host.main(*sys.argv[1:])
    except (ValueError, TypeError, OSError, client.InferenceServerException) as e:
        sys.exit(f"Error: {str(e).splitlines()[0]}")
