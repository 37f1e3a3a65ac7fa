"""Mask work for what is found alone: in an exported graph, a loop over the rows of detections that are filled.

A detector answers with `max_detections` rows, best first, of which a frame fills a few; all of them through the mask
head took a third of the edge nano's time. Here the mask part is translated for a few rows and becomes the body of an
ONNX `Loop`, which runs as often as the fullest image of the batch needs. All shapes stay fixed.

The alternative, one `If` for each of several chunks of rows, took the same time, but each chunk brings its own copy of
the body.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from torch import Tensor

from rs4d_edge.errors import ExportError
from rs4d_edge.reference.box_head import BoxDetections
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.roi_stage import RoIHead

_FOUND = ("boxes", "scores", "labels")
_MASKS = "masks"
_ROWS = "mask_rows"  # prefix of all new names


class FirstRows(RoIHead):
    """The heads of `head` itself, whose masks are those of the first `rows` detections of each image."""

    def __init__(self, head: RoIHead, rows: int) -> None:
        with torch.device("meta"):  # the layers made here are replaced at once
            super().__init__(head.config)
        self.bbox_head, self.mask_head = head.bbox_head, head.mask_head
        self.rows = rows

    def masks(
        self,
        levels: Sequence[Tensor],
        found: BoxDetections,
        embedding: Tensor,
        positions: Tensor | None,
        stem: Tensor | None = None,
    ) -> Tensor:
        """As in `RoIHead`, but (B, `rows`, h, w)."""
        first = BoxDetections(*(value[:, : self.rows] for value in found))
        return super().masks(levels, first, embedding, positions, stem)


def with_first_masks(model: RS4D, rows: int) -> RS4D:
    """A copy of `model` that makes the masks of the first `rows` detections (at most all): what `loop_masks` wants."""
    view = copy.deepcopy(model)
    view.roi_head = FirstRows(view.roi_head, min(rows, model.config.max_detections))
    return view


def loop_masks(model: ModelProto, *, channels_last: bool = False) -> ModelProto:
    """A copy whose mask part, made for the first k rows of detections, is run k rows at a time until all have a mask.

    `masks` (B, k, h, w) becomes (B, D, h, w), 0 where nothing was found; D and B are those of `scores`. What does not
    depend on the detections stays outside. `channels_last` pools in that layout: OpenVINO hands planes to a loop's
    body and pools from planes about ten times slower. Raises ExportError if no mask part is found.
    """
    looped = ModelProto()
    looped.CopyFrom(model)
    graph = looped.graph
    outputs = {value.name: value for value in graph.output}
    batch, total = _shape(outputs["scores"])
    rows, *map_hw = _shape(outputs[_MASKS])[1:]
    body, others = _mask_part(graph)
    before, first = _by_channels_last(graph, body) if channels_last else ([], [])
    body = [*_chosen_rows(graph, total, rows), *first, *body, *_placed(graph, batch, total, map_hw)]
    nodes = [*others, *before, *_loop(graph, body, (batch, total, *map_hw), rows)]
    _move_constants(graph, nodes)
    made = {name for node in body for name in node.output}
    kept = [value for value in graph.value_info if value.name not in made]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.value_info.extend(kept)
    outputs[_MASKS].type.tensor_type.shape.dim[1].dim_value = total
    return looped


def _mask_part(graph: GraphProto) -> tuple[list[NodeProto], list[NodeProto]]:
    """Copies of the nodes that depend on the detections, reading the chosen rows and writing theirs; and all others."""
    leading, dependent = set(_FOUND), set(_FOUND)
    for node in reversed(graph.node):  # ONNX keeps nodes in the order of computation
        if not leading.isdisjoint(node.output):
            leading.update(node.input)
    body, others = [], []
    for node in graph.node:
        copied = NodeProto()
        copied.CopyFrom(node)
        if dependent.isdisjoint(node.input) or not leading.isdisjoint(node.output):  # boxes may depend on scores
            others.append(copied)
            continue
        dependent.update(node.output)
        copied.input[:] = [f"{_ROWS}/{name}" if name in _FOUND else name for name in node.input]
        copied.output[:] = [f"{_ROWS}/{name}" if name == _MASKS else name for name in node.output]
        body.append(copied)
    astray = [value.name for value in graph.output if value.name in dependent and value.name not in (*_FOUND, _MASKS)]
    if _MASKS not in dependent or astray:
        raise ExportError(
            f"masks cannot be made row by row: expected that 'masks' alone is computed from {', '.join(_FOUND)}; found "
            f"{', '.join(astray) or 'nothing'}. Export with mask_rows=0"
        )
    return body, others


def _chosen_rows(graph: GraphProto, total: int, rows: int) -> list[NodeProto]:
    """The detections of one pass. The last one begins early enough to be full: its first rows are made once more."""
    return [
        _node("Mul", [f"{_ROWS}/pass", _held(graph, "count", np.int64(rows))], "wanted"),
        _node("Min", [f"{_ROWS}/wanted", _held(graph, "last", np.int64(total - rows))], "begin"),
        _node("Add", [f"{_ROWS}/begin", _held(graph, "each", np.arange(rows))], "index"),
        *(_node("Gather", [name, f"{_ROWS}/index"], name, axis=1) for name in _FOUND),
    ]


def _placed(graph: GraphProto, batch: int, total: int, map_hw: Sequence[int]) -> list[NodeProto]:
    """The pass's masks put into all masks, which lie image after image as (B * D, h, w): one index finds a row."""
    images = _held(graph, "images", np.arange(batch)[:, None] * total)
    column = _held(graph, "column", np.array([-1, 1]))
    return [
        _node("Add", [images, f"{_ROWS}/index"], "places"),
        _node("Reshape", [f"{_ROWS}/places", column], "places_column"),
        _node("Reshape", [f"{_ROWS}/{_MASKS}", _held(graph, "flat", np.array([-1, *map_hw]))], "made"),
        _node("ScatterND", [f"{_ROWS}/all", f"{_ROWS}/places_column", f"{_ROWS}/made"], "all_next"),
        _node("Identity", [f"{_ROWS}/go_on"], "go_on_next"),
    ]


def _loop(graph: GraphProto, body: Sequence[NodeProto], shape: tuple[int, ...], rows: int) -> list[NodeProto]:
    """The loop over `body` that makes masks of `shape` (B, D, h, w), and ahead of it the number of passes."""
    batch, total, *map_hw = shape

    def value(name: str, kind: int, shape: Sequence[int] = ()) -> ValueInfoProto:
        return onnx.helper.make_tensor_value_info(f"{_ROWS}/{name}", kind, shape)

    flat = (batch * total, *map_hw)
    passes = onnx.helper.make_graph(
        body,
        _ROWS,
        [value("pass", TensorProto.INT64), value("go_on", TensorProto.BOOL), value("all", TensorProto.FLOAT, flat)],
        [value("go_on_next", TensorProto.BOOL), value("all_next", TensorProto.FLOAT, flat)],
    )
    zero = onnx.helper.make_tensor(f"{_ROWS}/zero", TensorProto.FLOAT, [1], [0.0])
    masks = _node("Reshape", [f"{_ROWS}/filled", _held(graph, "shape", np.array(shape))], "output")
    masks.output[0] = _MASKS
    return [
        _node("Greater", ["scores", _held(graph, "none", np.float32(0))], "found"),
        _node("Cast", [f"{_ROWS}/found"], "ones", to=TensorProto.INT64),
        _node("ReduceSum", [f"{_ROWS}/ones", _held(graph, "axis", np.array([1]))], "counts", keepdims=0),
        _node("ReduceMax", [f"{_ROWS}/counts"], "most", keepdims=0),
        _node("Add", [f"{_ROWS}/most", _held(graph, "count_less_one", np.int64(rows - 1))], "rounded"),
        _node("Div", [f"{_ROWS}/rounded", f"{_ROWS}/count"], "passes"),
        _node("ConstantOfShape", [_held(graph, "flat_shape", np.array(flat))], "empty", value=zero),
        _node("Loop", [f"{_ROWS}/passes", "", f"{_ROWS}/empty"], "filled", body=passes),
        masks,
    ]


def _move_constants(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Put the constants that only the loop reads into its body.

    ONNX Runtime's fastest convolutions want their weights there: twice as fast as with weights from outside.
    """
    outside: set[str] = set()
    for node in nodes:
        outside.update(node.input)
    body = next(node.attribute[0].g for node in nodes if node.op_type == "Loop")
    inside = {name for node in body.node for name in node.input} - outside
    body.initializer.extend(held for held in graph.initializer if held.name in inside)
    kept = [held for held in graph.initializer if held.name not in inside]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _by_channels_last(graph: GraphProto, body: Iterable[NodeProto]) -> tuple[list[NodeProto], list[NodeProto]]:
    """Let RoIAlign pool from channels-last maps in OpenVINO; answers with nodes ahead of the loop and of its body.

    The maps enter the loop with channels as the last axis, which costs nothing where they lie so already. OpenVINO's
    RoIAlign takes the layout of what is ahead of it, and a depthwise convolution prefers channels last: one of 1x1
    with weight 1 changes no value. Measured on ten RoIs of 64 channels: 2.0 ms from planes, 0.15 ms so, 0.2 ms for
    the convolutions.
    """
    before, first = [], []
    pools = [node for node in body if node.op_type == "RoiAlign"]
    channels = {value.name: _shape(value)[1] for value in (*graph.value_info, *graph.output) if len(_shape(value)) == 4}
    for name in dict.fromkeys(node.input[0] for node in pools):
        one = _held(graph, f"one/{name}", np.ones((channels[name], 1, 1, 1), np.float32))
        before.append(_node("Transpose", [name], f"{name}/last", perm=[0, 2, 3, 1]))
        first.append(_node("Transpose", [f"{_ROWS}/{name}/last"], f"{name}/planes", perm=[0, 3, 1, 2]))
        first.append(_node("Conv", [f"{_ROWS}/{name}/planes", one], name, group=channels[name]))
    for node in pools:
        node.input[0] = f"{_ROWS}/{node.input[0]}"
    return before, first


def _node(operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> NodeProto:
    """A node and its one output, both called `name` behind the prefix."""
    full = f"{_ROWS}/{name}"
    return onnx.helper.make_node(operator, inputs, [full], name=full, **attributes)


def _held(graph: GraphProto, name: str, value: npt.NDArray[Any] | np.generic) -> str:
    """A constant of the graph; answers with its name."""
    full = f"{_ROWS}/{name}"
    graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), full))
    return full


def _shape(value: ValueInfoProto) -> tuple[int, ...]:
    return tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
