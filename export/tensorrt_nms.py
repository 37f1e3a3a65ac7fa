"""Greedy NMS in operators that TensorRT builds: NonMaxSuppression has no kernel in TensorRT-RTX.

Greedy NMS keeps a box if no better one that is kept overlaps it. On the matrix of overlaps that is a fixed point: each
round decides from the boxes kept so far, and settles at least one more box of every chain of overlaps, so that no more
rounds are needed than there are boxes. Real chains are a few boxes long; the loop ends when a round changes nothing.
Ties rank by index, as in `rs4d_edge.reference.nms`, and nothing has to be sorted.
"""

from __future__ import annotations

import onnx.helper
import onnx.parser
from onnx import FunctionProto, ModelProto, NodeProto

from rs4d_edge.errors import ExportError
from rs4d_edge.export.scan_function import SCAN_DOMAIN

NMS_OP = "NmsKeep"

# Axes: G groups, N boxes. boxes (G, N, 4), scores (G, 1, N), the last three with one element; keep (G, N) bool. In
# matrices (G, N, N) the row is the box that suppresses, the column the one that is suppressed. What is kept is 1.0, so
# that a round is one matrix product, exact in every type that counts to N.
_BODY = """
<domain: "rs4d", opset_import: ["" : 18]>
NmsKeep (boxes, scores, most, iou_threshold, score_threshold) => (keep)
{
  i0 = Constant <value_ints: ints = [0]> ()
  i1 = Constant <value_ints: ints = [1]> ()
  zero = Constant <value_float: float = 0.0> ()
  one = Constant <value_float: float = 1.0> ()
  half = Constant <value_float: float = 0.5> ()

  x1, y1, x2, y2 = Split <axis: int = 2, num_outputs: int = 4> (boxes)
  x1_row = Transpose <perm: ints = [0, 2, 1]> (x1)
  y1_row = Transpose <perm: ints = [0, 2, 1]> (y1)
  x2_row = Transpose <perm: ints = [0, 2, 1]> (x2)
  y2_row = Transpose <perm: ints = [0, 2, 1]> (y2)
  right = Min (x2, x2_row)
  left = Max (x1, x1_row)
  bottom = Min (y2, y2_row)
  top = Max (y1, y1_row)
  signed_width = Sub (right, left)
  signed_height = Sub (bottom, top)
  width = Max (signed_width, zero)
  height = Max (signed_height, zero)
  overlap = Mul (width, height)
  side_x = Sub (x2, x1)
  side_y = Sub (y2, y1)
  area = Mul (side_x, side_y)
  area_row = Transpose <perm: ints = [0, 2, 1]> (area)
  areas = Add (area, area_row)
  union = Sub (areas, overlap)
  some = Greater (union, zero)
  divisor = Where (some, union, one)
  iou = Div (overlap, divisor)
  over = Greater (iou, iou_threshold)

  score = Transpose <perm: ints = [0, 2, 1]> (scores)
  higher = Greater (score, scores)
  equal = Equal (score, scores)
  count_list = Shape <start: int = 2, end: int = 3> (scores)
  count = Squeeze (count_list, i0)
  from = Constant <value_int: int = 0> ()
  by = Constant <value_int: int = 1> ()
  index_row = Range (from, count, by)
  index = Unsqueeze (index_row, i1)
  earlier = Less (index, index_row)
  first = And (equal, earlier)
  better = Or (higher, first)
  hits = And (over, better)
  suppresses = Cast <to: int = 1> (hits)
  taking_part = Greater (scores, score_threshold)
  candidates = Cast <to: int = 1> (taking_part)

  always = Cast <to: int = 9> (by)
  kept = Loop <body: graph = nms_round (int64 round, bool go_on, float[G, o, N] kept_in)
    => (bool go_on_next, float[G, o, N] kept_out) {
      blocking = MatMul (kept_in, suppresses)
      free = Less (blocking, half)
      free_number = Cast <to: int = 1> (free)
      kept_out = Mul (candidates, free_number)
      moved = Sub (kept_out, kept_in)
      distance = Abs (moved)
      farthest = ReduceMax <keepdims: int = 0> (distance)
      go_on_next = Greater (farthest, half)
    }> (count, always, candidates)

  order = Cast <to: int = 1> (better)
  ahead = MatMul (kept, order)
  limit = Cast <to: int = 1> (most)
  within = Less (ahead, limit)
  held = Greater (kept, half)
  both = And (held, within)
  keep = Squeeze (both, i1)
}
"""


def nms_function() -> FunctionProto:
    """`rs4d::NmsKeep` for `ModelProto.functions`."""
    return onnx.parser.parse_function(_BODY)


def nms_nodes(model: ModelProto) -> dict[str, NodeProto]:
    """For each NonMaxSuppression, a node `NmsKeep` under the name of the node whose mask of survivors it makes.

    That one ends what `rs4d_edge.export.translations.nms_keep` writes. Raises ExportError for another use.
    """
    made = {}
    for node in model.graph.node:
        if node.op_type == "NonMaxSuppression":
            end = _mask(model, node)
            made[end.name] = onnx.helper.make_node(NMS_OP, node.input, end.output, name=end.name, domain=SCAN_DOMAIN)
    return made


def _mask(model: ModelProto, node: NodeProto) -> NodeProto:
    """The Cast to bool that the survivors of `node` arrive at by Gather and ScatterND."""
    for operator, place in (("Gather", 0), ("ScatterND", 1), ("Cast", 0)):
        readers = [
            each for each in model.graph.node if each.op_type == operator and each.input[place] == node.output[0]
        ]
        if len(readers) != 1:
            raise ExportError(
                f"{node.name}: NonMaxSuppression can be built for TensorRT only as the exporter writes it, read by one "
                f"{operator}; found {len(readers)}"
            )
        node = readers[0]
    return node
