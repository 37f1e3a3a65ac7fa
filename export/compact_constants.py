"""Smaller constants for quantized models, whose size would otherwise be mostly what is not quantized.

Two kinds: tables that a sum of small tensors gives exactly (anchors), and weights that stay in high precision but lose
nothing in half the bytes, because they are multiplied once and added up in fp32 (position embedding, mask head).
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import onnx.helper
import onnx.numpy_helper
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from rs4d_edge.reference.anchors import base_anchors, level_anchors
from rs4d_edge.reference.config import DetectorConfig

_HALF = re.compile(r"backbone\.pos_embed$|roi_head\.mask_head\.|shared_image_embedding\.")
_LEAST = 1024  # elements; below this the cast's node is larger than what it saves
_CPU = torch.device("cpu")


def compact_constants(model: ModelProto, config: DetectorConfig) -> ModelProto:
    """A copy with anchors as sums, exactly as before, and position embedding and mask head stored in fp16."""
    compacted = ModelProto()
    compacted.CopyFrom(model)
    _sum_anchors(compacted.graph, config)
    _halve(compacted.graph)
    return compacted


def _sum_anchors(graph: GraphProto, config: DetectorConfig) -> None:
    """Each table of a level's anchors (h*w*A, 4) becomes the sum of rows (h,1,1,4), columns (1,w,1,4) and (A, 4)."""
    kept, added = [], []
    for held in graph.initializer:
        level = _level_of(held, config)
        if level is None:
            kept.append(held)
            continue
        size_hw, stride = level
        nodes, constants = _anchor_sum(held.name, size_hw, stride, config)
        added += nodes
        kept += constants
    del graph.initializer[:]
    graph.initializer.extend(kept)
    _put_first(graph, added)


def _level_of(held: TensorProto, config: DetectorConfig) -> tuple[tuple[int, int], int] | None:
    """Cells and stride of the level whose anchors `held` is, number for number; None if it is anything else."""
    if held.data_type != TensorProto.FLOAT or len(held.dims) != 2 or held.dims[1] != 4:
        return None
    height, width = config.encoder.image_size_hw
    for stride in config.proposals.strides:
        size_hw = (-(-height // stride), -(-width // stride))
        if size_hw[0] * size_hw[1] * len(base_anchors(stride, config.proposals)) != held.dims[0]:
            continue
        table = level_anchors(size_hw, stride, config.proposals, _CPU).numpy()
        if np.array_equal(onnx.numpy_helper.to_array(held), table):
            return size_hw, stride
    return None


def _anchor_sum(
    name: str, size_hw: tuple[int, int], stride: int, config: DetectorConfig
) -> tuple[list[NodeProto], list[TensorProto]]:
    y, x = (np.arange(cells, dtype=np.float32) * stride for cells in size_hw)
    parts: dict[str, npt.NDArray[np.generic]] = {
        "rows": np.stack((0 * y, y, 0 * y, y), axis=-1)[:, None, None, :],
        "columns": np.stack((x, 0 * x, x, 0 * x), axis=-1)[None, :, None, :],
        "shapes": base_anchors(stride, config.proposals).numpy(),
        "table": np.array([-1, 4]),
    }
    constants = [onnx.numpy_helper.from_array(value, f"{name}/{part}") for part, value in parts.items()]
    cells, all_of_them = f"{name}/cells", f"{name}/sum"
    nodes = [
        onnx.helper.make_node("Add", [f"{name}/rows", f"{name}/columns"], [cells], name=cells),
        onnx.helper.make_node("Add", [cells, f"{name}/shapes"], [all_of_them], name=all_of_them),
        onnx.helper.make_node("Reshape", [all_of_them, f"{name}/table"], [name], name=name),
    ]
    return nodes, constants


def _halve(graph: GraphProto) -> None:
    """Store what `_HALF` names in fp16, here and in inner graphs, and cast it back to fp32 where it is used."""
    casts = []
    for held in graph.initializer:
        value = onnx.numpy_helper.to_array(held)
        if not _HALF.match(held.name) or value.dtype != np.float32 or value.size < _LEAST:
            continue
        if np.abs(value).max() > np.finfo(np.float16).max:
            continue
        stored = f"{held.name}/half"
        casts.append(
            onnx.helper.make_node("Cast", [stored], [held.name], name=f"{held.name}/Cast", to=TensorProto.FLOAT)
        )
        held.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float16), stored))
    _put_first(graph, casts)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _halve(attribute.g)


def _put_first(graph: GraphProto, nodes: list[NodeProto]) -> None:
    rest = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
