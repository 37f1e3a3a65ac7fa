"""What TensorRT's parsers take of an operator beyond its types: attributes, constants, zero points, bytes.

The source is that of `tensorrt_operators`. "Constant" is an initializer or the output of a node Constant, which the
parser makes weights of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx.helper
import onnx.numpy_helper
from onnx import GraphProto, NodeProto, TensorProto

_TOP_K_LIMIT = 3840
_RESIZE = {
    "mode": ("nearest", ("nearest", "linear")),
    "coordinate_transformation_mode": (
        "half_pixel",
        ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"),
    ),
    "nearest_mode": ("round_prefer_floor", ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")),
    "keep_aspect_ratio_policy": ("stretch", ("stretch",)),
    "antialias": (0, (0,)),
}


@dataclass(frozen=True)
class Tensors:
    """What is known of the tensors that a graph's nodes can see: ONNX types, shapes (0 for unknown sizes), constants.

    `inputs` and `outputs` are those of the outermost graph.
    """

    types: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    constants: Mapping[str, TensorProto | NodeProto] = field(default_factory=dict)
    inputs: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()

    def within(self, graph: GraphProto) -> Tensors:
        """The same with those of `graph`, the outermost one or the body of a loop."""
        types, shapes, constants = dict(self.types), dict(self.shapes), dict(self.constants)
        for value in (*graph.input, *graph.value_info, *graph.output):
            types[value.name] = value.type.tensor_type.elem_type
            if value.type.tensor_type.HasField("shape"):
                shapes[value.name] = tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for held in graph.initializer:
            types[held.name], shapes[held.name], constants[held.name] = held.data_type, tuple(held.dims), held
        constants |= {node.output[0]: node for node in graph.node if node.op_type == "Constant"}
        outermost = not self.inputs
        inputs = frozenset(value.name for value in graph.input) if outermost else self.inputs
        outputs = frozenset(value.name for value in graph.output) if outermost else self.outputs
        return Tensors(types, shapes, constants, inputs, outputs)

    def value(self, name: str) -> np.ndarray[Any, Any] | None:
        """The constant `name`, None if it is none."""
        held = self.constants.get(name)
        if isinstance(held, NodeProto):
            given = held.attribute[0]
            content = onnx.helper.get_attribute_value(given)
            return onnx.numpy_helper.to_array(content) if given.name == "value" else np.asarray(content)
        return None if held is None else onnx.numpy_helper.to_array(held)


def restriction(node: NodeProto, tensors: Tensors) -> str:
    """Which restriction `node`, whose types are right, does not keep; empty if none."""
    name = "Reduce" if node.op_type.startswith("Reduce") else node.op_type
    return _RESTRICTIONS.get(name, _none)(node, tensors)


def _none(node: NodeProto, tensors: Tensors) -> str:
    return ""


def _attributes(node: NodeProto) -> dict[str, Any]:
    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _given(node: NodeProto, place: int) -> str:
    """The name of the input in that place, empty if there is none."""
    return node.input[place] if place < len(node.input) else ""


def _constant_input(place: int, needed: bool = False) -> Callable[[NodeProto, Tensors], str]:
    def check(node: NodeProto, tensors: Tensors) -> str:
        name = _given(node, place)
        if name and name not in tensors.constants:
            return f"its input {name} is computed, and TensorRT 10.3 takes a constant alone there"
        return "" if name or not needed else "TensorRT takes it without its second input since 11.5 alone"

    return check


def _zero_point(node: NodeProto, tensors: Tensors) -> str:
    name = _given(node, 2)
    if not name and node.op_type == "DequantizeLinear":
        return ""
    if not name:
        return "without a zero point it is about uint8; TensorRT takes int8 with a zero point of zeros"
    zero, kind = tensors.value(name), tensors.types.get(name, 0)
    if kind != TensorProto.INT8:
        return f"its zero point {name} is {TensorProto.DataType.Name(kind)}: TensorRT takes INT8"
    if zero is None or zero.any():
        return f"its zero point {name} is not a constant of zeros: TensorRT takes symmetric quantization alone"
    return ""


def _resize(node: NodeProto, tensors: Tensors) -> str:
    given = _attributes(node)
    for name, (default, known) in _RESIZE.items():
        if given.get(name, default) not in known:
            return f"its {name} is {given[name]!r}: TensorRT takes {', '.join(map(repr, known))}"
    axes = list(given.get("axes", []))
    if axes and _given(node, 2) and axes != list(range(len(tensors.shapes.get(node.input[0], ())))):
        return f"its axes are {axes}: TensorRT takes scales for all axes alone"
    return ""


def _top_k(node: NodeProto, tensors: Tensors) -> str:
    k = tensors.value(_given(node, 1))
    if not _attributes(node).get("sorted", 1):
        return "its results are not sorted: TensorRT takes sorted=1 alone"
    if k is None or k.max() >= _TOP_K_LIMIT:
        found = "not known" if k is None else int(k.max())
        return f"its K is {found}: TensorRT takes less than {_TOP_K_LIMIT}"
    return ""


def _one_output(node: NodeProto, tensors: Tensors) -> str:
    return f"its output {node.output[1]} is read: TensorRT has the first alone" if any(node.output[1:]) else ""


def _pool(node: NodeProto, tensors: Tensors) -> str:
    dilations = _attributes(node).get("dilations", [])
    if any(size != 1 for size in dilations):
        return f"its dilations are {list(dilations)}: TensorRT takes ones alone"
    return _one_output(node, tensors)


def _scatter(node: NodeProto, tensors: Tensors) -> str:
    reduction = _attributes(node).get("reduction", "none")
    return "" if reduction == "none" else f"its reduction is {reduction!r}: TensorRT takes 'none' alone"


def _pad(node: NodeProto, tensors: Tensors) -> str:
    return "TensorRT takes axes as its input since 10.4, and JetPack 6 has 10.3" if _given(node, 3) else ""


def _bytes(node: NodeProto, tensors: Tensors) -> str:
    """uint8 is for the network's inputs, to be cast at once, and its outputs."""
    for name, known, where in ((node.input[0], tensors.inputs, "input"), (node.output[0], tensors.outputs, "output")):
        if tensors.types[name] == TensorProto.UINT8 and name not in known:
            return f"{name} is UINT8 and no {where} of the network: TensorRT takes bytes only there"
    return ""


def _loop(node: NodeProto, tensors: Tensors) -> str:
    """States keep their shape, and no more comes out than states: the rest would have as many rows as rounds."""
    body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
    inner = tensors.within(body)
    carried = len(body.input) - 2
    if len(body.output) > carried + 1 and node.input[0] not in tensors.constants:
        return "what it collects has a length that is not known: TensorRT takes a constant number of rounds there"
    for before, after in zip(body.input[2:], body.output[1 : carried + 1], strict=True):
        first, then = inner.shapes.get(before.name), inner.shapes.get(after.name)
        if first is None or then is None:
            continue
        if len(first) != len(then) or any(a and b and a != b for a, b in zip(first, then, strict=True)):
            return f"{before.name} changes its shape from {first} to {then}: TensorRT takes states of one shape"
    return ""


_RESTRICTIONS: dict[str, Callable[[NodeProto, Tensors], str]] = {
    "AveragePool": _pool,
    "BatchNormalization": _one_output,
    "Cast": _bytes,
    "CumSum": _constant_input(1),
    "DequantizeLinear": _zero_point,
    "LayerNormalization": _one_output,
    "Loop": _loop,
    "MaxPool": _pool,
    "OneHot": _constant_input(1),
    "Pad": _pad,
    "QuantizeLinear": _zero_point,
    "Reduce": _constant_input(1),
    "Resize": _resize,
    "ScatterND": _scatter,
    "Squeeze": _constant_input(1, needed=True),
    "TopK": _top_k,
    "Unsqueeze": _constant_input(1),
}
