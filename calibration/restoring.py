"""Layers of a quantized OpenVINO model back to high precision, without a new calibration.

Layers that share their input or their weights go back together: a tensor whose values lie badly for int8 harms all its
readers, and weights are stored once.
Scales that SmoothQuant put ahead of a layer stay, and the restored weights take them up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from rs4d_edge.calibration.post_training import weighted_nodes

_SMOOTH = "nncf_smooth_quant"  # in the names of the nodes that NNCF adds for SmoothQuant
_PASSED = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "MaxPool")  # between the rounding and the layer


def quantized_groups(model: openvino.Model, names: Mapping[str, str]) -> list[frozenset[str]]:
    """The quantized layers of `model`, those together that share a tensor; `names` are `friendly_names`."""
    groups: list[tuple[set[str], set[str]]] = []  # the names of the tensors' nodes, and the layers
    for node in weighted_nodes(model):
        rounding = rounding_of(node)
        if rounding is None or node.get_friendly_name() not in names:
            continue
        source = rounding.input_value(0).get_node()
        tensors = {source.get_friendly_name(), node.input_value(1).get_node().get_friendly_name()}
        layers = {names[node.get_friendly_name()]}
        for group in [each for each in groups if each[0] & tensors]:
            groups.remove(group)
            tensors, layers = tensors | group[0], layers | group[1]
        groups.append((tensors, layers))
    return [frozenset(layers) for _, layers in groups]


def restore(model: openvino.Model, original: openvino.Model, group: frozenset[str], names: Mapping[str, str]) -> None:
    """Give the layers of `group` (one of `quantized_groups`) the unrounded inputs, weights and biases of `original`."""
    originals = {node.get_friendly_name(): node for node in original.get_ops()}
    roundings: dict[str, openvino.Node] = {}
    weights: dict[str, openvino.Node] = {}
    for node in weighted_nodes(model):
        rounding = rounding_of(node)
        if rounding is None or names.get(node.get_friendly_name()) not in group:
            continue
        roundings[rounding.get_friendly_name()] = rounding
        rounded = node.input_value(1).get_node().get_friendly_name()
        if rounded not in weights:  # once for layers that share it
            values = originals[node.get_friendly_name()].input_value(1).get_node().data
            weights[rounded] = openvino.op.Constant(smoothed(values, node, rounding.input_value(0).get_node()))
        node.input(1).replace_source_output(weights[rounded].output(0))
        _restore_bias(node, originals)
    for rounding in roundings.values():
        for target in rounding.output(0).get_target_inputs():
            target.replace_source_output(rounding.input_value(0))


def rounding_of(node: openvino.Node) -> openvino.Node | None:
    """What rounds the node's input; None if nothing does."""
    source = node.input_value(0).get_node()
    while source.get_type_name() in _PASSED:
        source = source.input_value(0).get_node()
    return source if source.get_type_name() == "FakeQuantize" else None


def smoothed(values: npt.NDArray[Any], node: openvino.Node, source: openvino.Node) -> npt.NDArray[np.float32]:
    """Weights `values` of `node` for an input that `source` has scaled, channel by channel, if it is SmoothQuant's."""
    weights = np.array(values, dtype=np.float32)
    if _SMOOTH not in source.get_friendly_name():
        return weights
    scale = np.asarray(source.input_value(1).get_node().data, dtype=np.float32).reshape(-1)
    by_row = node.get_attributes().get("transpose_b", False)  # (out, in) instead of (in, out)
    result: npt.NDArray[np.float32] = weights / (scale if by_row else scale[:, None])
    return result


def _restore_bias(node: openvino.Node, originals: Mapping[str, openvino.Node]) -> None:
    """Put the original's constants into the sum with the bias, which may follow a product with a constant."""
    for target in node.output(0).get_target_inputs():
        user = target.get_node()
        other = 1 - target.get_index()
        if user.get_type_name() not in ("Add", "Multiply") or not _is_constant(user, other):
            continue
        if user.get_type_name() == "Multiply":
            _restore_bias(user, originals)
        elif user.get_friendly_name() in originals and _is_constant(originals[user.get_friendly_name()], other):
            bias = originals[user.get_friendly_name()].input_value(other).get_node().data
            user.input(other).replace_source_output(openvino.op.Constant(np.array(bias)).output(0))


def _is_constant(node: openvino.Node, index: int) -> bool:
    return bool(node.input_value(index).get_node().get_type_name() == "Constant")
