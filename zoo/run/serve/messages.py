"""The messages of the protocol over gRPC, made when they are needed: no generated code, which is tied to a version of
protobuf.

Names, numbers and types are those of `open_inference_grpc.proto`, https://github.com/open-inference/open-inference-protocol,
and of the extensions in `grpc_service.proto` and `model_config.proto`, https://github.com/triton-inference-server/common.
Of Triton's configuration, only what zoo says is here.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE, SERVICE = "inference", "GRPCInferenceService"

_MESSAGES = """
ServerLiveRequest
ServerLiveResponse          1 bool live
ServerReadyRequest
ServerReadyResponse         1 bool ready
ServerMetadataRequest
ServerMetadataResponse      1 string name, 2 string version, 3 string* extensions
ModelReadyRequest           1 string name, 2 string version
ModelReadyResponse          1 bool ready
ModelMetadataRequest        1 string name, 2 string version
ModelMetadataResponse       1 string name, 2 string* versions, 3 string platform, 4 TensorMetadata* inputs, 5 TensorMetadata* outputs
TensorMetadata              1 string name, 2 string datatype, 3 int64* shape
InferParameter              1 bool| bool_param, 2 int64| int64_param, 3 string| string_param, 4 double| double_param, 5 uint64| uint64_param
InferTensorContents         1 bool* bool_contents, 2 int32* int_contents, 3 int64* int64_contents, 4 uint32* uint_contents, 5 uint64* uint64_contents, 6 float* fp32_contents, 7 double* fp64_contents, 8 bytes* bytes_contents
InferInputTensor            1 string name, 2 string datatype, 3 int64* shape, 4 InferParameter% parameters, 5 InferTensorContents contents
InferRequestedOutputTensor  1 string name, 2 InferParameter% parameters
InferOutputTensor           1 string name, 2 string datatype, 3 int64* shape, 4 InferParameter% parameters, 5 InferTensorContents contents
ModelInferRequest           1 string model_name, 2 string model_version, 3 string id, 4 InferParameter% parameters, 5 InferInputTensor* inputs, 6 InferRequestedOutputTensor* outputs, 7 bytes* raw_input_contents
ModelInferResponse          1 string model_name, 2 string model_version, 3 string id, 4 InferParameter% parameters, 5 InferOutputTensor* outputs, 6 bytes* raw_output_contents
ModelConfigRequest          1 string name, 2 string version
ModelConfigResponse         1 ModelConfig config
ModelConfig                 1 string name, 2 string platform, 3 ModelVersionPolicy version_policy, 4 int32 max_batch_size, 5 ModelInput* input, 6 ModelOutput* output, 17 string backend
ModelVersionPolicy          3 Specific specific
Specific                    1 int64* versions
ModelInput                  1 string name, 2 DataType data_type, 4 int64* dims
ModelOutput                 1 string name, 2 DataType data_type, 3 int64* dims
ModelStatisticsRequest      1 string name, 2 string version
ModelStatisticsResponse     1 ModelStatistics* model_stats
ModelStatistics             1 string name, 2 string version, 4 uint64 inference_count, 5 uint64 execution_count, 6 InferStatistics inference_stats, 7 InferBatchStatistics* batch_stats
InferStatistics             1 StatisticDuration success, 2 StatisticDuration fail, 3 StatisticDuration queue, 5 StatisticDuration compute_infer
InferBatchStatistics        1 uint64 batch_size, 3 StatisticDuration compute_infer
StatisticDuration           1 uint64 count, 2 uint64 ns
RepositoryIndexRequest      1 string repository_name, 2 bool ready
RepositoryIndexResponse     1 ModelIndex* models
ModelIndex                  1 string name, 2 string version, 3 string state, 4 string reason
ModelRepositoryParameter    1 bool| bool_param, 2 int64| int64_param, 3 string| string_param, 4 bytes| bytes_param
RepositoryModelLoadRequest    1 string repository_name, 2 string model_name, 3 ModelRepositoryParameter% parameters
RepositoryModelLoadResponse
RepositoryModelUnloadRequest  1 string repository_name, 2 string model_name, 3 ModelRepositoryParameter% parameters
RepositoryModelUnloadResponse
"""  # noqa: E501
"""A message for each line: number, type and name of its fields. `*`: repeated, `%`: a map from strings, `|`: one of
these at most."""

_DATA_TYPES = "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16"

METHODS = (
    "ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer", "ModelConfig",
    "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
)  # fmt: skip
"""Those that are answered; `ServerLive` takes a `ServerLiveRequest`, and gives a `ServerLiveResponse`."""


def messages() -> dict[str, Any]:
    """The classes of the messages, by name."""
    file = descriptor_pb2.FileDescriptorProto(name="zoo/inference.proto", package=PACKAGE, syntax="proto3")
    types = file.enum_type.add(name="DataType")
    for number, name in enumerate(_DATA_TYPES.split()):
        types.value.add(name=f"TYPE_{name}", number=number)
    for line in _MESSAGES.strip().splitlines():
        name, _, fields = line.partition(" ")
        message = file.message_type.add(name=name)
        for field in filter(None, fields.strip().split(", ")):
            _add(message, *field.split())
    # A pool of its own: another library in this process may bring the same messages.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {m.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{m.name}"))
            for m in file.message_type}  # fmt: skip


def _add(message: Any, number: str, kind: str, name: str) -> None:
    field = message.field.add(name=name, number=int(number))
    _set_type(field, kind.rstrip("*%|"))
    field.label = field.LABEL_REPEATED if kind[-1] in "*%" else field.LABEL_OPTIONAL
    if kind.endswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    if kind.endswith("%"):
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        key, value = entry.field.add(name="key", number=1), entry.field.add(name="value", number=2)
        _set_type(key, "string")
        _set_type(value, kind[:-1])
        key.label = value.label = field.LABEL_OPTIONAL
        field.type_name = f".{PACKAGE}.{message.name}.ParametersEntry"


def _set_type(field: Any, kind: str) -> None:
    if kind[0].islower():
        field.type = getattr(field, f"TYPE_{kind.upper()}")
        return
    field.type = field.TYPE_ENUM if kind == "DataType" else field.TYPE_MESSAGE
    field.type_name = f".{PACKAGE}.{kind}"
