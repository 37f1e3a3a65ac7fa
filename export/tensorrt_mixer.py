"""A mixer's core as three nodes of our own around its two matrix products, for TensorRT's plugins.

`rs4d_edge.runtimes.tensorrt_mixer_operators` says what the operators compute, `tensorrt_mixer_function` has their
bodies.

`split_mixers` belongs ahead of measuring ranges and of `to_half`: v, narrow, dt and y are then tensors like any other,
which stay in fp32 where what was measured on them does not fit fp16, or else are fp16 with both products. Within a
`MixerCore` node nobody sees them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.helper
import onnx.numpy_helper
from onnx import ModelProto, NodeProto, TensorProto

from rs4d_edge.errors import ExportError
from rs4d_edge.export.graph import only_outputs
from rs4d_edge.export.mixer_function import MIXER_INPUTS, MIXER_OP
from rs4d_edge.export.scan_function import SCAN_DOMAIN, SCAN_OP, scan_function
from rs4d_edge.export.tensorrt_mixer_function import core_functions
from rs4d_edge.native.cuda_launch import MOST_STATES, MOST_TAPS
from rs4d_edge.runtimes.tensorrt_mixer_operators import MIXER_OPERATORS
from rs4d_edge.runtimes.tensorrt_plugins import PLUGIN_NAMESPACE, PLUGIN_VERSION

# How TensorRT's parser finds a plugin.
PLUGIN_IDENTITY = {"plugin_namespace": PLUGIN_NAMESPACE, "plugin_version": PLUGIN_VERSION}
# Inputs that are fp32 in fp16 graphs, too.
CORE_FP32_INPUTS = {operator.name: operator.fp32_inputs for operator in MIXER_OPERATORS}


def split_mixers(model: ModelProto) -> ModelProto:
    """A copy of `model` with the three operators and two MatMuls for each `MixerCore`.

    Nodes are named after the core, `backbone.layers.0/MixerCore/MixerScan`. Raises ExportError for mixers that the
    plugins do not serve.
    """
    changed = ModelProto()
    changed.CopyFrom(model)
    own = [node for node in model.graph.node if node.domain == SCAN_DOMAIN]
    lone = [node.name for node in own if node.op_type == SCAN_OP]
    if lone:
        raise ExportError(
            f"the scan {lone[0]} stands outside of a mixer's core, for which alone there are plugins (encoders with "
            "the path 'forward_reverse_mean'): use --scan plain"
        )
    if not any(node.op_type == MIXER_OP for node in own):
        return changed
    splitter = _Splitter(model)
    nodes = [each for node in model.graph.node for each in splitter.take(node)]
    del changed.graph.node[:], changed.functions[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(splitter.made)
    changed.functions.extend([scan_function(), *core_functions(*splitter.sizes())])
    return only_outputs(changed, [value.name for value in model.graph.output])


class _Splitter:
    """Takes the nodes one by one; `made` are the constants that it adds."""

    def __init__(self, model: ModelProto) -> None:
        self._held = {held.name: held for held in model.graph.initializer}
        self._sizes: set[tuple[int, int]] = set()
        self.made: list[TensorProto] = []

    def take(self, node: NodeProto) -> list[NodeProto]:
        """The node, or what stands in the place of a core."""
        if node.domain != SCAN_DOMAIN or node.op_type != MIXER_OP:
            return [NodeProto.FromString(node.SerializeToString())]
        uz, weight, bias, x_proj, dt_proj, dt_bias, a, d = node.input
        self._check(node)
        v, narrow, dt_columns, dt, y = (f"{node.name}/{part}" for part in ("v", "narrow", "dt_columns", "dt", "y"))
        ends = self._constant(f"{node.name}/rank", np.array([self._value(dt_proj).shape[1]]))
        start, axis = (
            self._constant(f"{node.name}/{name}", np.array([at])) for name, at in (("start", 0), ("axis", 2))
        )
        return [
            _own("MixerConvolution", node, [uz, weight, bias], v),
            _standard("MatMul", [v, self._transposed(x_proj)], narrow),
            _standard("Slice", [narrow, start, ends, axis], dt_columns),
            _standard("MatMul", [dt_columns, self._transposed(dt_proj)], dt),
            _own("MixerScan", node, [v, dt, narrow, dt_bias, a, d], y),
            _own("MixerGate", node, [y, uz], node.output[0]),
        ]

    def sizes(self) -> tuple[int, int]:
        """Channels and taps of all cores taken."""
        if len(self._sizes) != 1:
            raise ExportError(
                f"the mixers' convolutions have the shapes {sorted(self._sizes)}: expected one, (channels, taps), for "
                "which the bodies of the plugins' nodes are written; export models whose mixers are all of one width"
            )
        return next(iter(self._sizes))

    def _check(self, node: NodeProto) -> None:
        absent = [name for name in node.input[1:] if name not in self._held]
        if absent:
            raise ExportError(f"{node.name} reads weights that are no constants: {', '.join(absent)}")
        channels, taps = self._held[node.input[MIXER_INPUTS.index("conv_weight")]].dims
        states = self._held[node.input[MIXER_INPUTS.index("a")]].dims[1]
        if taps > MOST_TAPS or states > MOST_STATES:
            raise ExportError(
                f"{node.name} has {taps} taps and {states} states, and the plugins are compiled for at most "
                f"{MOST_TAPS} and {MOST_STATES}: use --scan plain"
            )
        self._sizes.add((channels, taps))

    def _value(self, name: str) -> npt.NDArray[Any]:
        return onnx.numpy_helper.to_array(self._held[name])

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        if name not in self._held:
            held = onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
            self._held[name] = held
            self.made.append(held)
        return name

    def _transposed(self, name: str) -> str:
        return self._constant(f"{name}/transposed", self._value(name).T)


def _own(op_type: str, core: NodeProto, inputs: list[str], output: str) -> NodeProto:
    name = f"{core.name}/{op_type}"
    return onnx.helper.make_node(op_type, inputs, [output], name=name, domain=SCAN_DOMAIN, **PLUGIN_IDENTITY)


def _standard(op_type: str, inputs: list[str], output: str) -> NodeProto:
    return onnx.helper.make_node(op_type, inputs, [output], name=f"{output}/{op_type}")
