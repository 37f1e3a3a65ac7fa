"""RoIAlign as two matrix products: TensorRT's own asks for CUDA while it is parsed, and has no adaptive sampling.

A bin averages bilinear samples on a grid. The weight of a sample for a cell is a product of one weight for each axis,
so the samples of a bin along one axis merge into one row of weights over all cells of that axis, and pooling is a
product with the rows' weights, then one with the columns'. That is exact for any number of samples, and a RoI without
area gives 0. Between the two lies a tensor of RoIs x bins x columns x channels, so this is meant for the edge models'
hundred RoIs; a thousand RoIs on a stride-4 map of 256 channels would take 1.8 GB.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx.helper
import onnx.numpy_helper
import onnx.parser
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto

from rs4d_edge.errors import ExportError
from rs4d_edge.export.scan_function import SCAN_DOMAIN

ROI_ALIGN_OP = "RoiAlignDense"
AXIS_OP = "RoiAxisWeights"

# Axes: B images, C channels, H rows, W columns, N RoIs of an image, R = B N, S bins a side, K samples of a bin at most.
# feature (B, C, H, W); rois (R, 4) xyxy in input pixels, image after image; scale (1) is 1 / stride; steps (K) counts
# from 0; bins (S) too. pooled (R, C, S, S).
_BODY = """
<domain: "rs4d", opset_import: ["" : 18, "rs4d" : 1]>
RoiAlignDense (feature, rois, scale, bins, steps) => (pooled)
{
  i_1 = Constant <value_ints: ints = [-1]> ()
  i1 = Constant <value_ints: ints = [1]> ()
  half = Constant <value_float: float = 0.5> ()
  scaled = Mul (rois, scale)
  edges = Sub (scaled, half)
  x1, y1, x2, y2 = Split <axis: int = 1, num_outputs: int = 4> (edges)
  images = Shape <start: int = 0, end: int = 1> (feature)
  channels = Shape <start: int = 1, end: int = 2> (feature)
  height = Shape <start: int = 2, end: int = 3> (feature)
  width = Shape <start: int = 3, end: int = 4> (feature)
  size = Shape (bins)
  row_weights = rs4d.RoiAxisWeights (y1, y2, height, bins, steps)
  column_weights = rs4d.RoiAxisWeights (x1, x2, width, bins, steps)

  channels_last = Transpose <perm: ints = [0, 2, 3, 1]> (feature)
  rows_shape = Concat <axis: int = 0> (images, height, i_1)
  map_rows = Reshape (channels_last, rows_shape)
  weights_shape = Concat <axis: int = 0> (images, i_1, height)
  weights_by_row = Reshape (row_weights, weights_shape)
  by_rows = MatMul (weights_by_row, map_rows)
  cells_shape = Concat <axis: int = 0> (i_1, size, width, channels)
  cells = Reshape (by_rows, cells_shape)
  weights_by_column = Unsqueeze (column_weights, i1)
  by_cells = MatMul (weights_by_column, cells)
  pooled = Transpose <perm: ints = [0, 3, 1, 2]> (by_cells)
}
"""
# low, high (R, 1): a RoI's edges in cells; extent (1) int64: cells of the axis; weights (R, S, extent). Samples further
# than one cell outside of the map count as 0; the others outside are moved to its edge.
_AXIS_BODY = """
<domain: "rs4d", opset_import: ["" : 18]>
RoiAxisWeights (low, high, extent, bins, steps) => (weights)
{
  i0 = Constant <value_ints: ints = [0]> ()
  i2 = Constant <value_ints: ints = [2]> ()
  i3 = Constant <value_ints: ints = [3]> ()
  one = Constant <value_float: float = 1.0> ()
  half = Constant <value_float: float = 0.5> ()
  zero = Constant <value_float: float = 0.0> ()
  minus_one = Constant <value_float: float = -1.0> ()

  size_list = Shape (bins)
  size = Cast <to: int = 1> (size_list)
  length = Sub (high, low)
  side = Div (length, size)
  grid_any = Ceil (side)
  grid_column = Max (grid_any, zero)
  grid = Unsqueeze (grid_column, i2)
  divisor = Max (grid, one)
  offsets = Mul (bins, side)
  begin_row = Add (low, offsets)
  begin = Unsqueeze (begin_row, i2)
  middle = Add (steps, half)
  side_deep = Unsqueeze (side, i2)
  way = Mul (middle, side_deep)
  inside = Div (way, divisor)
  position = Add (begin, inside)

  end = Cast <to: int = 1> (extent)
  last = Sub (end, one)
  taken = Less (steps, grid)
  not_below = GreaterOrEqual (position, minus_one)
  not_above = LessOrEqual (position, end)
  on_map = And (not_below, not_above)
  counted = And (taken, on_map)
  counted_number = Cast <to: int = 1> (counted)
  share_flat = Div (counted_number, divisor)
  share = Unsqueeze (share_flat, i3)
  not_before = Max (position, zero)
  clamped_flat = Min (not_before, last)
  clamped = Unsqueeze (clamped_flat, i3)

  from = Constant <value_int: int = 0> ()
  by = Constant <value_int: int = 1> ()
  extent_scalar = Squeeze (extent, i0)
  indices = Range (from, extent_scalar, by)
  cells = Cast <to: int = 1> (indices)
  signed_distance = Sub (clamped, cells)
  distance = Abs (signed_distance)
  closeness = Sub (one, distance)
  tent = Max (closeness, zero)
  shares = Mul (tent, share)
  weights = ReduceSum <keepdims: int = 0> (shares, i2)
}
"""


def roi_align_functions() -> list[FunctionProto]:
    """`rs4d::RoiAlignDense`, and what it calls, for `ModelProto.functions`."""
    return [onnx.parser.parse_function(_BODY), onnx.parser.parse_function(_AXIS_BODY)]


def roi_align_nodes(model: ModelProto) -> tuple[dict[str, NodeProto], list[TensorProto]]:
    """For the name of each RoiAlign, a node `RoiAlignDense` in its place; and the constants that these read.

    RoIs must lie image after image, which is how `rs4d_edge.reference.roi_stage` gives them: their `batch_index` is not
    read. Raises ExportError for maps of unknown size and for another kind of RoiAlign than the reference's.
    """
    graph = model.graph
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    nodes: dict[str, NodeProto] = {}
    constants: dict[str, TensorProto] = {}
    for node in graph.node:
        if node.op_type != "RoiAlign":
            continue
        given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        size, shape = int(given["output_height"]), shapes.get(node.input[0], [])
        if size != given.get("output_width") or given.get("sampling_ratio", 0) or given.get("mode", b"avg") != b"avg":
            raise ExportError(
                f"{node.name}: only square pools of means with adaptive sampling can be rewritten: {given}"
            )
        if len(shape) != 4 or not all(shape):
            raise ExportError(
                f"{node.name}: the size of the map {node.input[0]} is not known: {shape}; expected 4 axes"
            )
        samples = max(shape[2:]) // size + 1  # RoIs are clipped to the image, so a bin is at most so many cells long
        names = [
            _hold(constants, f"roi_align/scale/{given['spatial_scale']}", [given["spatial_scale"]]),
            _hold(constants, f"roi_align/bins/{size}", range(size)),
            _hold(constants, f"roi_align/steps/{samples}", range(samples)),
        ]
        nodes[node.name] = onnx.helper.make_node(
            ROI_ALIGN_OP, [*node.input[:2], *names], node.output, name=node.name, domain=SCAN_DOMAIN
        )
    return nodes, list(constants.values())


def _hold(constants: dict[str, TensorProto], name: str, values: Iterable[float]) -> str:
    constants[name] = onnx.numpy_helper.from_array(np.array(list(values), dtype=np.float32), name)
    return name
