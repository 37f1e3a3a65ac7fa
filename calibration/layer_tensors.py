"""Which tensors the layers of an ONNX graph read and make, and which layers depend on the same."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from onnx import ModelProto, NodeProto

PRODUCTS = ("Gemm", "MatMul")


def tensors_of_layers(model: ModelProto, layers: Collection[str]) -> dict[str, int]:
    """The tensors whose statistics `insert_qdq` needs for `layers` or fewer, each with the axis of its channels.

    They are the layers' inputs and the results of convolutions.
    """
    readers = readers_of(model)
    wanted: dict[str, int] = {}
    for node in model.graph.node:
        if node.name in layers:
            product = node.op_type in PRODUCTS
            wanted[node.input[0]] = -1 if product else 1
            if not product:
                wanted.setdefault(activated(node, readers), 1)
    return wanted


def layers_to_restore_together(model: ModelProto, layers: Collection[str]) -> list[frozenset[str]]:
    """For each tensor that `layers` read: its readers, layers of the same weights, and what makes their inputs.

    A tensor whose values lie badly for int8 harms all its readers, and convolutions round it that make it. In the order
    of computation; no group twice.
    """
    readers = readers_of(model)
    nodes = [node for node in model.graph.node if node.name in layers]
    makers = {activated(node, readers): node.name for node in nodes if node.op_type not in PRODUCTS}
    groups = []
    for tensor in dict.fromkeys(node.input[0] for node in nodes):
        weights = {node.input[1] for node in nodes if node.input[0] == tensor}
        same = [node for node in nodes if node.input[1] in weights]
        inputs = {makers[node.input[0]] for node in same if node.input[0] in makers}
        groups.append(frozenset({node.name for node in same} | inputs))
    return list(dict.fromkeys(groups))


def readers_of(model: ModelProto) -> dict[str, list[NodeProto]]:
    """The nodes of the main graph that read each tensor."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def result_of(node: NodeProto, readers: Mapping[str, list[NodeProto]]) -> str:
    """What a layer gives to its readers: the result of a product, or `activated`."""
    return str(node.output[0]) if node.op_type in PRODUCTS else activated(node, readers)


def activated(node: NodeProto, readers: Mapping[str, list[NodeProto]]) -> str:
    """The result of `node`, behind the ReLU if that alone reads it."""
    after = readers.get(node.output[0], [])
    return str(after[0].output[0] if len(after) == 1 and after[0].op_type == "Relu" else node.output[0])
