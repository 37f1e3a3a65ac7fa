"""A strongly typed fp16 graph: weights and activations in fp16, but for islands of fp32 with a Cast at each border.

Every tensor has one type and every operator operands of one type, as TensorRT's strongly typed networks want it; in
an fp32 graph that is marked for fp16 each engine would choose for itself. A tensor keeps its name where it is fp32, and
is called `name/fp16` where it is not.

Neither library fits: `convert_float_to_float16` of onnxruntime and onnxconverter-common turns every fp32 tensor into
fp16 and back around each blocked node, so that two neighbours in fp32 hand each other fp16 (boxes in steps of half a
pixel, and what overflows is infinite all the same), and cuts weights to the range of fp16 without a word.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.helper
import onnx.numpy_helper
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from rs4d_edge.calibration.activation_ranges import float_tensors
from rs4d_edge.calibration.fp32_islands import LARGEST_HALF
from rs4d_edge.calibration.layers import names_read
from rs4d_edge.errors import ExportError
from rs4d_edge.export.tensorrt_mixer import CORE_FP32_INPUTS

_QDQ = ("QuantizeLinear", "DequantizeLinear")
QDQ_OPSET = 19  # the first in which quantizing takes fp16
# By so much of itself fp16 may change a scale: half a step of int8 at the end of its range. Small scales are subnormal
# in fp16 and lose more, down to nothing.
_SCALE_ERROR = 1 / 256
# Inputs that are fp32 whatever the others are: by the standard, and weights of a mixer's core for TensorRT's plugins.
_FP32_INPUTS = {"Resize": (1, 2), "Upsample": (1,), **CORE_FP32_INPUTS}
# Operators without fp16 in the standard, or whose result has another type than their inputs.
_FP32_OPERATORS = ("NonMaxSuppression", "Constant", "ConstantOfShape", "EyeLike", "Range")


def to_half(model: ModelProto, islands: Collection[str]) -> ModelProto:
    """A strongly typed fp16 copy of the fp32 `model`; the nodes named in `islands` stay in fp32.

    In fp32 stay, too: inputs and outputs of the graph, nodes of other domains than ONNX's (the scan, but not the parts
    of a mixer's core that `split_mixers` makes), and nodes with inner graphs (so convert before `loop_masks`).
    QuantizeLinear has the type that its input was computed in, and DequantizeLinear that of each reader, if need be
    twice, so that no Cast keeps an engine from fusing them with a layer. Their scales in fp16 make the graph's opset
    19; those that fp16 would spoil stay in fp32. Raises ExportError if a constant of a node in fp16 is too large for
    it.
    """
    rewriter = _Rewriter(model, islands)
    for node in model.graph.node:
        rewriter.take(node)
    return rewriter.result()


class _Rewriter:
    """Takes the nodes one by one, in the order of computation."""

    def __init__(self, model: ModelProto, islands: Collection[str]) -> None:
        self._model, self._islands = model, set(islands)
        self._floats = float_tensors(model)
        self._constants = {held.name: held for held in model.graph.initializer}
        self._nodes: list[NodeProto] = []
        self._made: dict[str, TensorProto] = {}
        self._half: set[str] = set()  # tensors that a node answers with in fp16
        self._cast: set[tuple[str, bool]] = set()  # tensors that were cast or dequantized, and whether to fp16
        self._dequantizing: dict[str, NodeProto] = {}  # whose results are made in the type that they are wanted in
        self._quantized_in_half = False

    def take(self, node: NodeProto) -> None:
        """Add the node in its type, and ahead of it the casts that it needs."""
        if node.op_type == "DequantizeLinear" and self._scales_fit(node):
            self._dequantizing[node.output[0]] = node
        else:
            self._add(node, self._in_half(node))

    def _add(self, node: NodeProto, half: bool) -> None:
        taken = NodeProto()
        taken.CopyFrom(node)
        for name in names_read([node]) - set(node.input):  # an inner graph reads them from outside, in fp32
            self._read(name, False, node)
        fp32_inputs = _FP32_INPUTS.get(node.op_type, ())
        taken.input[:] = [
            self._read(name, half and place not in fp32_inputs, node) for place, name in enumerate(node.input)
        ]
        if half:
            self._quantized_in_half |= node.op_type in _QDQ
            taken.output[:] = [f"{name}/fp16" if name in self._floats else name for name in node.output]
            self._half.update(name for name in node.output if name in self._floats)
            _cast_to_half(taken)
            if node.op_type == "DequantizeLinear":  # it may be there in fp32, too
                taken.name += "/fp16"
        self._nodes.append(taken)

    def result(self) -> ModelProto:
        """The model, with outputs in fp32 and without constants that nobody reads any more."""
        for value in self._model.graph.output:
            self._read(value.name, False, None)
        changed = ModelProto()
        changed.CopyFrom(self._model)
        graph = changed.graph
        read = names_read(self._nodes)
        kept = [held for held in self._model.graph.initializer if held.name in read]
        alive = {name for node in self._nodes for name in node.output}
        values = [*self._model.graph.value_info, *self._model.graph.output]
        known = [value for value in self._model.graph.value_info if value.name in alive]
        known += [_in_fp16(value) for value in values if f"{value.name}/fp16" in alive]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend([*kept, *self._made.values()])
        graph.value_info.extend(known)
        if self._quantized_in_half:
            raise_opset(changed)
        return changed

    def _in_half(self, node: NodeProto) -> bool:
        inner = any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute)
        own = node.domain not in ("", "ai.onnx") and node.op_type not in CORE_FP32_INPUTS
        if own or inner or node.name in self._islands or node.op_type in _FP32_OPERATORS:
            return False
        if node.op_type in _QDQ:
            source = node.input[0]
            return (source in self._half or source in self._dequantizing) and self._scales_fit(node)
        return True

    def _scales_fit(self, node: NodeProto) -> bool:
        """Whether a Q/DQ node with constant scales gives the same in fp16: not for small ones, nor for int32 values."""
        values, scale = (self._constants.get(name) for name in node.input[:2])
        if scale is None:
            return True
        exact = onnx.numpy_helper.to_array(scale)
        spoiled = np.abs(exact.astype(np.float16) - exact) > _SCALE_ERROR * exact
        return not spoiled.any() and (values is None or values.data_type != TensorProto.INT32)

    def _read(self, name: str, half: bool, node: NodeProto | None) -> str:
        """The name under which the tensor has the type that is wanted; casts it or stores it so if nobody did."""
        if name not in self._floats:
            return name
        wanted = f"{name}/fp16" if half else name
        if name in self._constants:
            if half and wanted not in self._made:
                self._made[wanted] = _halved(self._constants[name], wanted, node)
        elif (name, half) in self._cast:
            pass
        elif name in self._dequantizing:
            self._cast.add((name, half))
            self._add(self._dequantizing[name], half)
        elif (name in self._half) is not half:
            self._cast.add((name, half))
            source, kind = (name, TensorProto.FLOAT16) if half else (f"{name}/fp16", TensorProto.FLOAT)
            self._nodes.append(onnx.helper.make_node("Cast", [source], [wanted], name=f"{wanted}/Cast", to=kind))
        return wanted


def fits_half(value: npt.NDArray[Any]) -> bool:
    """Whether fp16 holds all of the values, but for rounding."""
    return not value.size or float(np.abs(value).max()) <= LARGEST_HALF


def _halved(held: TensorProto, name: str, node: NodeProto | None) -> TensorProto:
    value = onnx.numpy_helper.to_array(held)
    if not fits_half(value):
        raise ExportError(
            f"the constant {held.name} of {node.name if node else 'the graph'} reaches {np.abs(value).max():.3g}, and "
            f"fp16 holds at most {LARGEST_HALF:.0f}: keep that node in fp32"
        )
    return onnx.numpy_helper.from_array(value.astype(np.float16), name)


def _cast_to_half(node: NodeProto) -> None:
    """A cast to fp32 in the fp16 part becomes one to fp16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16


def _in_fp16(value: ValueInfoProto) -> ValueInfoProto:
    changed = ValueInfoProto()
    changed.CopyFrom(value)
    changed.name = f"{value.name}/fp16"
    changed.type.tensor_type.elem_type = TensorProto.FLOAT16
    return changed


def raise_opset(model: ModelProto) -> None:
    """Let quantizing take fp16; in functions, too, which must agree with the graph; changed in place.

    What else opset 19 changed in operators of ours are types and attributes that it added.
    """
    for holder in (model, *model.functions):
        for opset in holder.opset_import:
            if opset.domain == "":
                opset.version = max(opset.version, QDQ_OPSET)
