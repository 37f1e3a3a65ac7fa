"""Bodies of standard operators for the three nodes of a split mixer's core, for runtimes without TensorRT's plugins.

They compute in fp32 whatever the tensors are, as the kernels do, so that what fp16 rounds in a body is what it rounds
in the plugin: the tensors in between, and neither states nor step sizes. TensorRT's parser finds a plugin by two
attributes, which the functions take, since ONNX allows a node none that its function does not know.

Shapes and symbols are those of `rs4d_edge.runtimes.tensorrt_mixer_operators`. The convolution's form, and why it is
written for one width, is that of `mixer_function`.
"""

from __future__ import annotations

import onnx.parser
from onnx import FunctionProto

_BODIES = (
    """
<domain: "rs4d", opset_import: ["" : 18]>
MixerConvolution <plugin_namespace, plugin_version> (uz, weight, bias) => (v)
{
  i1 = Constant <value_ints: ints = [1]> ()
  i1_2 = Constant <value_ints: ints = [1, 2]> ()
  i3 = Constant <value_ints: ints = [3]> ()
  back = Constant <value_ints: ints = [-1]> ()
  farthest = Constant <value_ints: ints = [-9223372036854775807]> ()
  taps_ahead = Unsqueeze (weight, i1_2)
  taps_back = Slice (taps_ahead, back, farthest, i3, back)
  exact = Cast <to: int = 1> (uz)
  u, z = Split <axis: int = 2, num_outputs: int = 2> (exact)
  image = Unsqueeze (u, i1)
  row = Transpose <perm: ints = [0, 3, 1, 2]> (image)
  row_ahead = Conv <group: int = CHANNELS, pads: ints = [0, REACH, 0, 0]> (row, taps_ahead, bias)
  row_back = Conv <group: int = CHANNELS, pads: ints = [0, 0, 0, REACH]> (row, taps_back, bias)
  rows = Concat <axis: int = 0> (row_ahead, row_back)
  images = Transpose <perm: ints = [0, 2, 3, 1]> (rows)
  conv = Squeeze (images, i1)
  sigmoid = Sigmoid (conv)
  silu = Mul (conv, sigmoid)
  v = CastLike (silu, uz)
}
""",
    """
<domain: "rs4d", opset_import: ["" : 18, "rs4d" : 1]>
MixerScan <plugin_namespace, plugin_version> (v, dt, narrow, dt_bias, a, d) => (y)
{
  i2 = Constant <value_ints: ints = [2]> ()
  states = Shape <start: int = 1, end: int = 2> (a)
  width = Shape <start: int = 2, end: int = 3> (narrow)
  taken = Mul (states, i2)
  rank = Sub (width, taken)
  widths = Concat <axis: int = 0> (rank, states, states)
  exact_v = Cast <to: int = 1> (v)
  exact_dt = Cast <to: int = 1> (dt)
  exact_narrow = Cast <to: int = 1> (narrow)
  step = Add (exact_dt, dt_bias)
  delta = Softplus (step)
  dt_columns, b, c = Split <axis: int = 2> (exact_narrow, widths)
  v_ahead, v_back = Split <axis: int = 0, num_outputs: int = 2> (exact_v)
  delta_ahead, delta_back = Split <axis: int = 0, num_outputs: int = 2> (delta)
  b_ahead, b_back = Split <axis: int = 0, num_outputs: int = 2> (b)
  c_ahead, c_back = Split <axis: int = 0, num_outputs: int = 2> (c)
  y_ahead = rs4d.SelectiveScan <reverse: int = 0> (v_ahead, delta_ahead, a, b_ahead, c_ahead, d)
  y_back = rs4d.SelectiveScan <reverse: int = 1> (v_back, delta_back, a, b_back, c_back, d)
  exact_y = Concat <axis: int = 0> (y_ahead, y_back)
  y = CastLike (exact_y, v)
}
""",
    """
<domain: "rs4d", opset_import: ["" : 18]>
MixerGate <plugin_namespace, plugin_version> (y, uz) => (out)
{
  half = Constant <value_float: float = 0.5> ()
  exact_y = Cast <to: int = 1> (y)
  exact_uz = Cast <to: int = 1> (uz)
  u, z = Split <axis: int = 2, num_outputs: int = 2> (exact_uz)
  y_ahead, y_back = Split <axis: int = 0, num_outputs: int = 2> (exact_y)
  both = Add (y_ahead, y_back)
  mean = Mul (both, half)
  sigmoid = Sigmoid (z)
  silu = Mul (z, sigmoid)
  gated = Mul (mean, silu)
  out = CastLike (gated, y)
}
""",
)


def core_functions(channels: int, taps: int) -> list[FunctionProto]:
    """The three operators for weights of these sizes, for `ModelProto.functions`, after `SelectiveScan`'s."""
    bodies = (body.replace("CHANNELS", str(channels)).replace("REACH", str(taps - 1)) for body in _BODIES)
    return [onnx.parser.parse_function(body) for body in bodies]
