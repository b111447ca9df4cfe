"""Triton's Python backend: runs a task of the folder that contains this repository, with host.py, on ONNX Runtime.

Inputs are checked as in every host: a wrong shape, size, range or class is an error of that request only.
"""

import json
import sys
from pathlib import Path

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.task = config["parameters"]["task"]["string_value"]
        folder = Path(args["model_repository"]).resolve().parents[1]  # FOLDER/python/NAME_TASK
        sys.path.insert(0, str(folder))
        import host

        self.host, self.ports = host, host.MODEL["tasks"][self.task]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        try:
            arrays = {
                name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.ports["inputs"]
            }
            for name, port in self.ports["inputs"].items():  # tensors in Triton have at least one axis
                arrays[name] = arrays[name].reshape(arrays[name].shape[: len(port["shape"])])
            outputs = self.host.run(self.task, **arrays)
        except (ValueError, TypeError) as e:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(e)))
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs.items()])
