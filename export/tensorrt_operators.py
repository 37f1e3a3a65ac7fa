"""Whether a graph lies within what TensorRT's ONNX parser takes: 10.3 (JetPack 6), 10.16 (JetPack 7) and 11 alike.

The tables say what all of them take. Their source is docs/operators.md of github.com/onnx/onnx-tensorrt as of 10.6 and
of 10.15, with its changelog for the steps from 10.3 to 10.6, and the parser's release notes of 11.0 to 11.5, which only
add to it. No notes of 10.16 were found. What TensorRT-RTX cannot build, although the parser takes it, is refused, too.
Operators with restrictions that nothing here looks at are left out: recurrent layers, windows, GridSample, Scan, If.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.helper
import onnx.shape_inference
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from rs4d_edge.errors import ExportError
from rs4d_edge.export.scan_function import SCAN_DOMAIN
from rs4d_edge.export.tensorrt_restrictions import Tensors, restriction
from rs4d_edge.runtimes.tensorrt_plugins import PLUGIN_NAMES

_OPSETS = range(9, 21)  # of TensorRT 10.0 to 10.3
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_NUMBERS = _FLOATS | {TensorProto.INT32, TensorProto.INT64}
_ANY = _NUMBERS | {TensorProto.BOOL}
_FLOAT_OPERATORS = """
    AveragePool BatchNormalization Ceil Clip Conv ConvTranspose Cos CumSum Einsum Elu Erf Exp Floor Gemm
    GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish InstanceNormalization LayerNormalization LeakyRelu Log
    LogSoftmax MatMul MaxPool PRelu Pow QuantizeLinear Reciprocal Resize Round Sigmoid Sin Softmax Softplus Softsign
    Sqrt Tanh
"""
_NUMBER_OPERATORS = """
    Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Neg
    Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu ScatterElements ScatterND Sign SpaceToDepth Sub Sum TopK
"""
_ANY_OPERATORS = """
    Concat Constant ConstantOfShape Expand Flatten Gather GatherElements GatherND Identity Loop OneHot Reshape Shape
    Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where
"""
_TYPES: dict[str, frozenset[int]] = {
    **dict.fromkeys(_FLOAT_OPERATORS.split(), _FLOATS),
    **dict.fromkeys(_NUMBER_OPERATORS.split(), _NUMBERS),
    **dict.fromkeys(_ANY_OPERATORS.split(), _ANY),
    **dict.fromkeys(("And", "Not", "Or", "Xor"), frozenset({TensorProto.BOOL})),
    "Cast": _ANY | {TensorProto.UINT8},
    "DequantizeLinear": frozenset({TensorProto.INT8}),
}
_ONE_DATA_INPUT = """
    ConstantOfShape CumSum DequantizeLinear Expand Gather GatherElements GatherND Reshape Resize Slice Split Squeeze
    Tile TopK Trilu Unsqueeze
"""
# Places of the inputs that the types are about, which have one type among them; all inputs of the other operators.
_DATA: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(_ONE_DATA_INPUT.split(), (0,)),
    **dict.fromkeys((name for name in _TYPES if name.startswith("Reduce")), (0,)),
    "OneHot": (2,),
    "Pad": (0, 2),
    "QuantizeLinear": (0, 1),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Where": (1, 2),
}
_SINCE = {
    "BlackmanWindow": "10.4",
    "HammingWindow": "10.4",
    "HannWindow": "10.4",
    "STFT": "10.5",
    "Attention": "10.14",
    "RMSNormalization": "10.15",
    "RotaryEmbedding": "10.15",
    "TensorScatter": "10.15",
    "Swish": "11.0",
    "DFT": "11.2",
}
_REFUSED = {
    "NonMaxSuppression": "TensorRT takes it, but TensorRT-RTX has no kernel for it",
    "RoiAlign": "TensorRT takes it, but TensorRT-RTX asks for CUDA while it parses it",
    "NonZero": "TensorRT takes it, but TensorRT-RTX does not build it, nor what has its sizes from the data",
    "DeformConv": "TensorRT takes it, but TensorRT-RTX does not build it",
    **dict.fromkeys(
        ("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
        "no TensorRT takes it: int8 is pairs of QuantizeLinear and DequantizeLinear around operators in floats",
    ),
}


def check_operators(model: ModelProto, plugins: bool) -> None:
    """Raise ExportError unless TensorRT's parsers take every node of `model`; the error names the first they do not.

    Types are strict: what an operator computes with has one type, and nothing is converted but by Cast. `plugins`:
    whether the graph may have nodes for our plugins, whose bodies the parser is not given.
    """
    version = max(opset.version for opset in model.opset_import if not opset.domain)
    if version not in _OPSETS:
        raise ExportError(
            f"the graph is written in opset {version}: TensorRT 10.3, JetPack 6's, takes {_OPSETS[0]} to {_OPSETS[-1]}"
        )
    try:
        typed = onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError as error:
        raise ExportError(f"the types of the graph cannot be followed: {error}") from error
    _check_graph(typed.graph, Tensors(), plugins)


def _check_graph(graph: GraphProto, outer: Tensors, plugins: bool) -> None:
    tensors = outer.within(graph)
    for node in graph.node:
        reason = _refusal(node, tensors, plugins)
        if reason:
            raise ExportError(f"{node.name or node.output[0]} ({node.op_type}): {reason}")
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _check_graph(attribute.g, tensors, plugins)


def _refusal(node: NodeProto, tensors: Tensors, plugins: bool) -> str:
    """Why TensorRT does not take `node`; empty if it does."""
    name = node.op_type
    if node.domain == SCAN_DOMAIN:
        return _plugin_refusal(name, plugins)
    if node.domain not in ("", "ai.onnx"):
        return f"TensorRT knows no operators of the domain {node.domain!r}"
    if name in _REFUSED:
        return _REFUSED[name]
    if name in _SINCE:
        return f"TensorRT takes it since {_SINCE[name]}, and JetPack 6 has 10.3"
    if name not in _TYPES:
        return "not among the operators that TensorRT 10.3 to 11 all take and whose restrictions are checked here"
    return _type_refusal(node, tensors.types) or restriction(node, tensors)


def _plugin_refusal(name: str, plugins: bool) -> str:
    if not plugins:
        return "a node of our own in a graph that is to do without plugins; expected its body in its place"
    return "" if name in PLUGIN_NAMES else f"there is no plugin of that name; expected {', '.join(PLUGIN_NAMES)}"


def _type_refusal(node: NodeProto, types: Mapping[str, int]) -> str:
    places = _DATA.get(node.op_type, range(len(node.input)))
    if node.op_type == "Loop":
        places = range(2, len(node.input))  # behind the number of rounds and the condition
    names = [node.input[place] for place in places if place < len(node.input) and node.input[place]]
    made = [node.output[0]] if node.op_type in ("Cast", "Constant", "ConstantOfShape") else []
    unknown = [name for name in (*names, *made) if not types.get(name)]
    if unknown:
        return f"the type of {unknown[0]} is not known"
    allowed = _TYPES[node.op_type]
    for name in (*names, *made):
        if types[name] not in allowed:
            return (
                f"{name} is {_type_name(types[name])}: TensorRT 10.3 to 11 take this operator in "
                f"{', '.join(sorted(map(_type_name, allowed)))}"
            )
    found = {types[name] for name in names}
    if len(found) > 1 and node.op_type != "Loop":
        mixed = ", ".join(f"{name} {_type_name(types[name])}" for name in names)
        return f"its inputs are of mixed types, which TensorRT does not convert: {mixed}; put a Cast before it"
    return ""


def _type_name(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind))
