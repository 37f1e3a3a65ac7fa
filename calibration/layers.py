"""Which layers of an exported graph may be quantized, and which stay in high precision whatever is asked for.

A layer is a node with weights of its own, by the name that the export gave it after its module:
`backbone.layers.0.in_proj/MatMul`, `neck.lateral8.1/Conv`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from onnx import ModelProto, NodeProto

# Transposed convolutions are left out: NNCF leaves them in high precision, ONNX Runtime has no int8 kernel for them.
WEIGHTED = ("Conv", "Gemm", "MatMul")
# Never in int8, with the reason. The patterns fit the beginnings of node names.
HIGH_PRECISION = {
    # The scan multiplies thousands of rounded steps exp(A * delta) with each other, so that errors grow with the
    # length, and the widths of A, B, C and delta differ by orders of magnitude within one tensor.
    "scan and mixer core": r"backbone\.layers\.\d+(/|\.(conv1d|x_proj|dt_proj)\b)|backbone\.gate_layers\b",
    # Its probabilities are cut at 0.5: rounded logits lose whole masks of small objects.
    "mask head": r"roi_head\.mask_head\b|mask_rows/|shared_image_embedding\b",
    # `pooling_layout` puts them there; they multiply by 1.
    "layout of pooled maps": r"channels_last/",
}
# A convolution is int8 only with a rounded result in ONNX Runtime, and steps of 1/127 of the largest box delta are
# pixels of large boxes. The first one reads the normalised frame: ONNX Runtime would move the change of layout that
# int8 convolutions want up to the frame, whose three channels as the innermost axis make normalising it take 17 ms
# instead of 3.
EXACT_RESULTS = re.compile(r"backbone\.stem\.stride4\.0\.|rpn_head\.rpn_(cls|reg)\b")
_HIGH = {group: re.compile(pattern) for group, pattern in HIGH_PRECISION.items()}


def high_precision_group(name: str) -> str | None:
    """The group of `HIGH_PRECISION` that the node's name falls into; None if it may be quantized."""
    return next((group for group, pattern in _HIGH.items() if pattern.match(name)), None)


def weighted_layers(graph: ModelProto) -> list[str]:
    """All nodes of the main graph with a constant weight, in the order of computation."""
    return list(layer_outputs(graph))


def layer_outputs(graph: ModelProto) -> dict[str, str]:
    """The layers of `weighted_layers`, each with the name of its output."""
    constants = {held.name for held in graph.graph.initializer}
    return {
        node.name: node.output[0]
        for node in graph.graph.node
        if node.op_type in WEIGHTED and node.name and len(node.input) > 1 and node.input[1] in constants
    }


def quantizable_layers(graph: ModelProto, without: Iterable[str] = ()) -> list[str]:
    """The layers of `graph` that are quantized: all that may be, but not those of `without`."""
    left_out = set(without)
    return [name for name in weighted_layers(graph) if high_precision_group(name) is None and name not in left_out]


def names_read(nodes: Iterable[NodeProto]) -> set[str]:
    """All names that `nodes` read, and those that their inner graphs read from outside or inside."""
    read: set[str] = set()
    for node in nodes:
        read.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                read |= names_read(attribute.g.node)
    return read
