"""The core of a mixer in an ONNX file: a node of our own, with a model-local function as its body.

The body is of standard operators around two nodes `SelectiveScan`, functions themselves. It is written for one inner
width and one number of taps: ONNX keeps a convolution's groups and padding in attributes, which no input can set.

The convolution's form was the fastest in ONNX Runtime (2 threads, AVX2, both directions, least of 150 runs) at 4096x512
and near it at 1600x256 (tokens, channels): 8.0 and 1.4 ms for an image one row high, whose transposes ONNX Runtime
merges into its blocked layout; 16.3 and 1.6 ms for a 1-D convolution between transposes; 17.3 and 1.8 ms with the
surplus cut off afterwards; 13.9 and 2.4 ms for a sum of shifted products, which needs no transposes.
"""

from __future__ import annotations

import onnx.parser
from onnx import FunctionProto

MIXER_OP = "MixerCore"
MIXER_INPUTS = ("uz", "conv_weight", "conv_bias", "x_proj", "dt_proj", "dt_bias", "a", "d")

# Axes: B batch, L tokens, E channels, N states, R rank of the step sizes, K taps. uz (B, L, 2E), u before z;
# conv_weight (E, K), the last tap for the token itself; x_proj (R + 2N, E); dt_proj (E, R); a (E, N); y (B, L, E).
_BODY = """
<domain: "rs4d", opset_import: ["" : 18, "rs4d" : 1]>
MixerCore (uz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, a, d) => (y)
{
  i1 = Constant <value_ints: ints = [1]> ()
  i1_2 = Constant <value_ints: ints = [1, 2]> ()
  i3 = Constant <value_ints: ints = [3]> ()
  back = Constant <value_ints: ints = [-1]> ()
  farthest = Constant <value_ints: ints = [-9223372036854775807]> ()
  half = Constant <value_float: float = 0.5> ()
  rank = Shape <start: int = 1, end: int = 2> (dt_proj)
  states = Shape <start: int = 1, end: int = 2> (a)
  widths = Concat <axis: int = 0> (rank, states, states)
  select = Transpose <perm: ints = [1, 0]> (x_proj)
  widen = Transpose <perm: ints = [1, 0]> (dt_proj)
  taps_ahead = Unsqueeze (conv_weight, i1_2)
  taps_back = Slice (taps_ahead, back, farthest, i3, back)

  u, z = Split <axis: int = 2, num_outputs: int = 2> (uz)
  sigmoid_z = Sigmoid (z)
  silu_z = Mul (z, sigmoid_z)
  gate = Mul (silu_z, half)
  image = Unsqueeze (u, i1)
  row = Transpose <perm: ints = [0, 3, 1, 2]> (image)

  row_ahead = Conv <group: int = CHANNELS, pads: ints = [0, REACH, 0, 0]> (row, taps_ahead, conv_bias)
  image_ahead = Transpose <perm: ints = [0, 2, 3, 1]> (row_ahead)
  conv_ahead = Squeeze (image_ahead, i1)
  sigmoid_ahead = Sigmoid (conv_ahead)
  v_ahead = Mul (conv_ahead, sigmoid_ahead)
  narrow_ahead = MatMul (v_ahead, select)
  dt_ahead, b_ahead, c_ahead = Split <axis: int = 2> (narrow_ahead, widths)
  wide_ahead = MatMul (dt_ahead, widen)
  step_ahead = Add (wide_ahead, dt_bias)
  delta_ahead = Softplus (step_ahead)
  y_ahead = rs4d.SelectiveScan <reverse: int = 0> (v_ahead, delta_ahead, a, b_ahead, c_ahead, d)

  row_back = Conv <group: int = CHANNELS, pads: ints = [0, 0, 0, REACH]> (row, taps_back, conv_bias)
  image_back = Transpose <perm: ints = [0, 2, 3, 1]> (row_back)
  conv_back = Squeeze (image_back, i1)
  sigmoid_back = Sigmoid (conv_back)
  v_back = Mul (conv_back, sigmoid_back)
  narrow_back = MatMul (v_back, select)
  dt_back, b_back, c_back = Split <axis: int = 2> (narrow_back, widths)
  wide_back = MatMul (dt_back, widen)
  step_back = Add (wide_back, dt_bias)
  delta_back = Softplus (step_back)
  y_back = rs4d.SelectiveScan <reverse: int = 1> (v_back, delta_back, a, b_back, c_back, d)

  both = Add (y_ahead, y_back)
  y = Mul (both, gate)
}
"""


def mixer_function(channels: int, taps: int) -> FunctionProto:
    """`rs4d::MixerCore` for weights of these sizes, for `ModelProto.functions`, after `SelectiveScan`'s."""
    return onnx.parser.parse_function(_BODY.replace("CHANNELS", str(channels)).replace("REACH", str(taps - 1)))
