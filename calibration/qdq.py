"""Explicit quantization of an ONNX graph: QuantizeLinear and DequantizeLinear around the chosen layers.

Weights become int8 with a scale for each output channel and zero point 0. Tensors become int8 with one scale and zero
point 0 (`signed`), or for ONNX Runtime uint8 with zero point 0 if they are never negative, else 128: its convolutions
have one type for what goes in and out, and take a ReLU along only if zero is the type's smallest number.

ONNX Runtime fuses a convolution into an integer kernel only if nobody reads its exact result, so that one is rounded
for all its readers. Neither library fits: onnxruntime.quantization rounds twice, ahead of a ReLU and behind it, if zero
points are 0, after which nothing is fused, and NNCF's ONNX part drops the bodies of our nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.helper
import onnx.numpy_helper
from onnx import ModelProto, NodeProto, TensorProto

from rs4d_edge.calibration.int8_scales import SMALLEST, STEPS, Floats, tensor_grid, weight_scale
from rs4d_edge.calibration.layer_tensors import PRODUCTS, activated, readers_of
from rs4d_edge.calibration.layers import names_read
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.calibration.tensor_statistics import TensorStatistics
from rs4d_edge.errors import ExportError

_MIGRATION = 0.5  # of SmoothQuant: the part of a channel's size that goes into the weights (in log scale)


def insert_qdq(
    model: ModelProto,
    layers: Collection[str],
    statistics: Mapping[str, TensorStatistics],
    settings: QuantizationSettings,
) -> ModelProto:
    """A copy of `model` whose nodes `layers` compute in int8. `statistics` are those of `tensors_of_layers`."""
    rewriter = _Rewriter(model, set(layers), statistics, settings)
    for node in model.graph.node:
        rewriter.take(node)
    return rewriter.result()


class _Rewriter:
    """Takes the nodes one by one, in the order of computation."""

    def __init__(
        self,
        model: ModelProto,
        layers: set[str],
        statistics: Mapping[str, TensorStatistics],
        settings: QuantizationSettings,
    ) -> None:
        self._model, self._layers, self._statistics, self._settings = model, layers, statistics, settings
        self._given = {held.name: held for held in model.graph.initializer}
        self._nodes: list[NodeProto] = []
        self._made: dict[str, TensorProto] = {}
        self._rounded: set[str] = set()  # tensors that only layers read rounded, and which are so already
        readers = readers_of(model)
        # Results that every reader is to have rounded: they keep their name, and the exact ones get another.
        self._results = {
            activated(node, readers)
            for node in model.graph.node
            if node.name in layers and node.op_type not in PRODUCTS
        }

    def take(self, node: NodeProto) -> None:
        """Add the node, quantized if it is a layer."""
        copied = NodeProto()
        copied.CopyFrom(node)
        if node.name not in self._layers:
            self._add(copied)
        elif node.op_type in PRODUCTS:
            self._take_product(copied)
        else:
            self._take_convolution(copied)

    def result(self) -> ModelProto:
        """The model, without constants that nobody reads any more."""
        changed = ModelProto()
        changed.CopyFrom(self._model)
        graph = changed.graph
        read = names_read(self._nodes)
        kept = [held for held in self._model.graph.initializer if held.name in read]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(self._nodes)
        graph.initializer.extend([*kept, *self._made.values()])
        return changed

    def _take_convolution(self, node: NodeProto) -> None:
        weight = self._constant(node.input[1])
        rounded_weight = self._quantized_weight(node.input[1], weight, axis=0)
        if len(node.input) > 2 and self._settings.correct_biases:
            group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            mean = self._statistics[node.input[0]].channel_mean.reshape(group, -1)  # (groups, inputs of one)
            error = (rounded_weight - weight).sum(axis=(2, 3)).reshape(group, -1, mean.shape[1])
            shift = np.einsum("goi,gi->go", error, mean).reshape(-1)
            node.input[2] = self._hold(f"{node.name}/bias", self._constant(node.input[2]) - shift)
        statistics = self._statistics[node.input[0]]
        node.input[0] = self._rounded_input(node.input[0], statistics.largest, statistics.negative)
        node.input[1] = f"{node.input[1]}/rounded"
        self._add(node)

    def _take_product(self, node: NodeProto) -> None:
        """MatMul, or Gemm, which stays one so that engines do not make one of a product and a sum."""
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if attributes.get("transA") or {attributes.get("alpha", 1.0), attributes.get("beta", 1.0)} != {1.0}:
            raise ExportError(f"{node.name} is scaled or transposed ({attributes}), which quantization does not know")
        inputs_axis = 1 if attributes.get("transB") else 0
        weight, statistics = self._constant(node.input[1]), self._statistics[node.input[0]]
        source, largest, mean = node.input[0], statistics.largest, statistics.channel_mean
        if self._settings.smooth_projections and node.op_type == "MatMul":
            scale = _smoothing(statistics.channel_largest, np.abs(weight).max(axis=1 - inputs_axis))
            # Of the largest values of single frames only the whole tensor's is known; a channel's is taken as far down.
            spread = statistics.largest / max(float(statistics.channel_largest.max()), SMALLEST)
            largest, mean = float((statistics.channel_largest / scale).max()) * spread, mean / scale
            weight = weight * (scale if inputs_axis else scale[:, None])
            smooth = f"{node.name}/smooth"
            self._append("Mul", [source, self._hold(f"{smooth}/factor", 1 / scale)], smooth)
            source = smooth
        name = f"{node.name}/weight"
        error = self._quantized_weight(name, weight, axis=1 - inputs_axis) - weight
        if len(node.input) > 2 and self._settings.correct_biases:
            shift = error @ mean if inputs_axis else mean @ error
            node.input[2] = self._hold(f"{node.name}/bias", self._constant(node.input[2]) - shift)
        node.input[0] = self._rounded_input(source, largest, statistics.negative)
        node.input[1] = f"{name}/rounded"
        if len(node.input) > 2 and not self._settings.signed:
            node.input[2] = self._rounded_bias(node, self._made_values(f"{name}/scale"))
        self._add(node)

    def _rounded_bias(self, node: NodeProto, weight_scale: Floats) -> str:
        """The bias in int32 steps of the products: ONNX Runtime adds these for convolutions, but not for Gemm."""
        values = self._made_values(node.input[2]) if node.input[2] in self._made else self._constant(node.input[2])
        scale = self._made_values(f"{node.input[0]}/scale") * weight_scale
        name = f"{node.name}/bias/rounded"
        steps = self._hold(f"{name}/int32", np.rint(values / scale).astype(np.int32))
        zeros = self._hold(f"{name}/zero", np.zeros(scale.shape, dtype=np.int32))
        self._append("DequantizeLinear", [steps, self._hold(f"{name}/scale", scale), zeros], name, axis=0)
        return name

    def _add(self, node: NodeProto) -> None:
        """The node, and behind it the rounding of those of its results that everybody is to have rounded."""
        results = [name for name in node.output if name in self._results]
        node.output[:] = [f"{name}/exact" if name in self._results else name for name in node.output]
        self._nodes.append(node)
        for name in results:
            self._round(f"{name}/exact", name, self._statistics[name].largest, self._statistics[name].negative)

    def _rounded_input(self, name: str, largest: float, negative: bool) -> str:
        if name in self._results:
            return name
        rounded = f"{name}/rounded"
        if name not in self._rounded:
            self._rounded.add(name)
            self._round(name, rounded, largest, negative)
        return rounded

    def _round(self, source: str, target: str, largest: float, negative: bool) -> None:
        grid = tensor_grid(largest, negative, self._settings)
        scale, zero = (
            self._hold(f"{target}/{what}", value) for what, value in zip(("scale", "zero"), grid, strict=True)
        )
        self._append("QuantizeLinear", [source, scale, zero], f"{target}/int8")
        self._append("DequantizeLinear", [f"{target}/int8", scale, zero], target)

    def _quantized_weight(self, name: str, weight: Floats, axis: int) -> Floats:
        """Make `name`/rounded of int8 constants, unless it is there; answers with its values."""
        scale = weight_scale(weight, axis, self._settings)
        shape = [-1 if each == axis else 1 for each in range(weight.ndim)]
        rounded = np.clip(np.rint(weight / scale.reshape(shape)), -STEPS, STEPS)
        if f"{name}/int8" not in self._made:
            values = self._hold(f"{name}/int8", rounded.astype(np.int8))
            scales = self._hold(f"{name}/scale", scale)
            zeros = self._hold(f"{name}/zero", np.zeros(scale.shape, dtype=np.int8))
            self._append("DequantizeLinear", [values, scales, zeros], f"{name}/rounded", axis=axis)
        result: Floats = (rounded * scale.reshape(shape)).astype(np.float32)
        return result

    def _constant(self, name: str) -> Floats:
        value: Floats = onnx.numpy_helper.to_array(self._given[name]).astype(np.float32)
        return value

    def _made_values(self, name: str) -> Floats:
        value: Floats = onnx.numpy_helper.to_array(self._made[name]).astype(np.float32)
        return value

    def _hold(self, name: str, value: npt.NDArray[np.generic]) -> str:
        stored = value if value.dtype.kind in "iu" else value.astype(np.float32)
        self._made[name] = onnx.numpy_helper.from_array(stored, name)
        return name

    def _append(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        name = f"{output}/{operator}"  # the output alone may be the name of the node that made the exact value
        self._nodes.append(onnx.helper.make_node(operator, inputs, [output], name=name, **attributes))


def _smoothing(inputs: Floats, weights: Floats) -> Floats:
    """SmoothQuant's scale of each channel, by which its inputs are divided and its weights are multiplied."""
    scale = np.maximum(inputs, SMALLEST) ** _MIGRATION / np.maximum(weights, SMALLEST) ** (1 - _MIGRATION)
    result: Floats = np.where((inputs > SMALLEST) & (weights > SMALLEST), scale, 1).astype(np.float32)
    return result
