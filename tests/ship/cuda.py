"""The operators that ONNX Runtime's CUDA provider has kernels for, for checks on machines without a GPU.

The names are those of its list of kernels (docs/OperatorKernels.md in ONNX Runtime's repository, CUDAExecutionProvider,
domain ai.onnx) that cover opset 13 to 20. Other operators run on the CPU, with a copy there and back; that costs little
once, before a sampler's loop, but much at every step.
"""

from collections.abc import Iterator

import onnx

from zoo.graph.walk import graphs_of, nodes_of, subgraphs

_NAMES = """
    Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Compress Concat ConstantOfShape Conv
    ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten
    Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GridSample
    HardSigmoid HardSwish Identity If InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax Loop MatMul MatMulInteger Max MaxPool Min Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow
    QuantizeLinear RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round Scan ScatterElements ScatterND Selu Shape Shrink
    Sigmoid Sign Sin Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu
    Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
OPERATORS = frozenset(_NAMES.split())

ABSENT = frozenset({"Constant", "CastLike"})
"""Removed before a provider is asked: folded into the session, or a function that becomes Cast."""

HOST_SIDE = frozenset({"BitwiseAnd", "BitwiseOr", "BitwiseXor"})
"""The integer operators of a seed's noise: without a kernel, and on the CPU by design, once, before the loop."""


def without_kernel(graph: onnx.GraphProto) -> set[str]:
    """The operators of a graph, including those in loops, that CUDA does not run and that should not be on the CPU."""
    return {node.op_type for node in nodes_of(graph)} - OPERATORS - ABSENT - HOST_SIDE


def host_side_in_loops(graph: onnx.GraphProto) -> set[str]:
    """The operators without a kernel inside a loop: a copy to the CPU and back at every step."""
    return {node.op_type for body in _bodies(graph) for node in nodes_of(body)} - OPERATORS - ABSENT


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for inner in graphs_of(graph):
        for node in inner.node:
            if node.op_type in ("Loop", "Scan"):
                yield from subgraphs(node)
