"""The selective scan in an ONNX file: a node of our own, with a model-local function of standard operators as its body.

`mixer_function` holds the second node of this kind. What is here for whole models handles both.

Any runtime can run the body; ours replace the node by a native kernel. The body cuts the tokens into chunks of
`CHUNK`, which advance in parallel, one token per step:

1. from a zero state, each chunk's last state;
2. over the chunks in sequence, the state that each one begins with (decayed by exp(A sum(delta)), plus step 1's);
3. each chunk again from that state, now with outputs.

So every factor is an exp of a number <= 0, and nothing is divided: exact for any step size. (Dividing running products
of the decay, the usual shortcut, overflows as soon as sum(|A| delta) of a chunk passes 88 in fp32.) Chunks of 32 were
the fastest or nearly so in ONNX Runtime and OpenVINO at 1600x256x8 and 4096x512x16 (tokens, channels, states), and keep
the largest tensor at 1/32 of tokens x channels x states. Channels lie innermost: 8 or 16 states make too short a row
for broadcasting (2 to 4 times slower). `a` travels through the loops as a state, because OpenVINO's reader miscounts a
loop body's inputs when the body looks outside.
"""

from __future__ import annotations

import onnx
import onnx.inliner
import onnx.parser
from onnx import FunctionProto, ModelProto, NodeProto

from rs4d_edge.errors import ExportError
from rs4d_edge.export.mixer_function import MIXER_INPUTS, MIXER_OP, mixer_function

SCAN_DOMAIN = "rs4d"
SCAN_DOMAIN_VERSION = 1
SCAN_OP = "SelectiveScan"
SCAN_INPUTS = ("u", "delta", "a", "b", "c", "d")
OPSET = 18  # the one that torch's exporter translates to; ONNX Runtime and OpenVINO have read it since 2023
CHUNK = 32

# Axes: B batch, L tokens, E channels, N states, K chunks, T tokens of a chunk. u, delta (B, L, E); a (E, N);
# b, c (B, L, N); d (E). Padding at the end has delta 0: it leaves the state alone.
_BODY = """
<domain: "rs4d", opset_import: ["" : 18]>
SelectiveScan <reverse: int = 0> (u, delta, a, b, c, d) => (y)
{
  i0 = Constant <value_ints: ints = [0]> ()
  i1 = Constant <value_ints: ints = [1]> ()
  i2 = Constant <value_ints: ints = [2]> ()
  length = Shape <start: int = 1, end: int = 2> (u)
  batch = Shape <start: int = 0, end: int = 1> (u)
  channels = Shape <start: int = 2, end: int = 3> (u)
  states = Shape <start: int = 2, end: int = 3> (b)
  chunk = Constant <value_ints: ints = [CHUNK]> ()

  backwards = Constant <value_int: int = @reverse> ()
  flag = Reshape (backwards, i1)
  twice = Mul (flag, i2)
  step = Sub (i1, twice)
  start = Neg (flag)
  farthest = Constant <value_ints: ints = [9223372036854775807]> ()
  end = Mul (farthest, step)
  u_read = Slice (u, start, end, i1, step)
  delta_read = Slice (delta, start, end, i1, step)
  b_read = Slice (b, start, end, i1, step)
  c_read = Slice (c, start, end, i1, step)
  x_read = Mul (delta_read, u_read)

  negative = Neg (length)
  missing = Mod (negative, chunk)
  pads = Concat <axis: int = 0> (i0, i0, i0, i0, missing, i0)
  padded_length = Add (length, missing)
  chunks = Div (padded_length, chunk)
  by_channel = Concat <axis: int = 0> (batch, chunks, chunk, i1, channels)
  by_state = Concat <axis: int = 0> (batch, chunks, chunk, states, i1)
  a_rows = Transpose <perm: ints = [1, 0]> (a)
  delta_padded = Pad (delta_read, pads)
  x_padded = Pad (x_read, pads)
  b_padded = Pad (b_read, pads)
  c_padded = Pad (c_read, pads)
  delta_chunks = Reshape (delta_padded, by_channel)
  x_chunks = Reshape (x_padded, by_channel)
  b_chunks = Reshape (b_padded, by_state)
  c_chunks = Reshape (c_padded, by_state)
  delta_steps = Transpose <perm: ints = [2, 0, 1, 3, 4]> (delta_chunks)
  x_steps = Transpose <perm: ints = [2, 0, 1, 3, 4]> (x_chunks)
  b_steps = Transpose <perm: ints = [2, 0, 1, 3, 4]> (b_chunks)
  c_steps = Transpose <perm: ints = [2, 0, 1, 3, 4]> (c_chunks)

  zero = Constant <value_float: float = 0.0> ()
  state_shape = Concat <axis: int = 0> (batch, chunks, states, channels)
  h_zero = Expand (zero, state_shape)
  h_last, a_first = Scan <num_scan_inputs: int = 3, body: graph = last_states
    (float[B, K, N, E] h, float[N, E] a_in, float[B, K, o, E] dt, float[B, K, o, E] x, float[B, K, N, o] bt)
    => (float[B, K, N, E] h_next, float[N, E] a_out) {
      a_out = Identity (a_in)
      exponent = Mul (dt, a_in)
      decay = Exp (exponent)
      kept = Mul (decay, h)
      added = Mul (x, bt)
      h_next = Add (kept, added)
    }> (h_zero, a_rows, delta_steps, x_steps, b_steps)

  delta_sum = ReduceSum <keepdims: int = 0> (delta_chunks, i2)
  chunk_exponent = Mul (delta_sum, a_rows)
  chunk_decay = Exp (chunk_exponent)
  decay_by_chunk = Transpose <perm: ints = [1, 0, 2, 3]> (chunk_decay)
  last_by_chunk = Transpose <perm: ints = [1, 0, 2, 3]> (h_last)
  carry_shape = Concat <axis: int = 0> (batch, states, channels)
  carry_zero = Expand (zero, carry_shape)
  carry_last, begin_by_chunk = Scan <num_scan_inputs: int = 2, body: graph = first_states
    (float[B, N, E] carry, float[B, N, E] decay_k, float[B, N, E] last_k)
    => (float[B, N, E] carry_next, float[B, N, E] begin) {
      begin = Identity (carry)
      carried = Mul (decay_k, carry)
      carry_next = Add (carried, last_k)
    }> (carry_zero, decay_by_chunk, last_by_chunk)
  h_begin = Transpose <perm: ints = [1, 0, 2, 3]> (begin_by_chunk)

  h_final, a_second, y_steps = Scan <num_scan_inputs: int = 4, body: graph = outputs
    (float[B, K, N, E] h2, float[N, E] a_in2, float[B, K, o, E] dt2, float[B, K, o, E] x2, float[B, K, N, o] bt2,
     float[B, K, N, o] ct2) => (float[B, K, N, E] h_next2, float[N, E] a_out2, float[B, K, E] y_step) {
      a_out2 = Identity (a_in2)
      exponent2 = Mul (dt2, a_in2)
      decay2 = Exp (exponent2)
      kept2 = Mul (decay2, h2)
      added2 = Mul (x2, bt2)
      h_next2 = Add (kept2, added2)
      weighted = Mul (h_next2, ct2)
      state_axis = Constant <value_ints: ints = [-2]> ()
      y_step = ReduceSum <keepdims: int = 0> (weighted, state_axis)
    }> (h_begin, a_rows, delta_steps, x_steps, b_steps, c_steps)

  y_chunks = Transpose <perm: ints = [1, 2, 0, 3]> (y_steps)
  y_shape = Concat <axis: int = 0> (batch, padded_length, channels)
  y_padded = Reshape (y_chunks, y_shape)
  y_states = Slice (y_padded, i0, length, i1)
  skipped = Mul (d, u_read)
  y_read = Add (y_states, skipped)
  y = Slice (y_read, start, end, i1, step)
}
"""


def scan_function() -> FunctionProto:
    """`rs4d::SelectiveScan` in standard operators, for `ModelProto.functions`."""
    return onnx.parser.parse_function(_BODY.replace("CHUNK", str(CHUNK)))


def add_scan_function(model: ModelProto) -> ModelProto:
    """`model` with a body for each kind of node of ours that it has and that has none yet; changed in place.

    Raises ExportError where mixers differ in width, since a body is written for one.
    """
    used = {node.op_type for node in _own_nodes(model)}
    held = {function.name for function in model.functions if function.domain == SCAN_DOMAIN}
    if used and SCAN_OP not in held:
        model.functions.append(scan_function())
    if MIXER_OP in used - held:
        model.functions.append(mixer_function(*_mixer_sizes(model)))
    return model


def has_scan(model: ModelProto) -> bool:
    """Whether the graph holds nodes that scan: `SelectiveScan` or `MixerCore`."""
    return bool(_own_nodes(model))


def without_scan_function(model: ModelProto) -> ModelProto:
    """A copy whose nodes of ours stand alone, for runtimes that bring their own kernels."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.functions[:]
    return copy


def inline_scan(model: ModelProto) -> ModelProto:
    """A copy with the body in place of each node of ours: standard operators only."""
    inlined: ModelProto = onnx.inliner.inline_local_functions(add_scan_function(model))
    kept = [opset for opset in inlined.opset_import if opset.domain != SCAN_DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    return inlined


def _own_nodes(model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if node.domain == SCAN_DOMAIN]


def _mixer_sizes(model: ModelProto) -> tuple[int, int]:
    """Channels and taps of the mixers: the shape of their convolutions' weights."""
    graph = model.graph
    shapes = {held.name: tuple(held.dims) for held in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        shapes[value.name] = tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
    weight = MIXER_INPUTS.index("conv_weight")
    sizes = {shapes.get(node.input[weight], ()) for node in _own_nodes(model) if node.op_type == MIXER_OP}
    known = [size for size in sizes if len(size) == 2 and all(size)]
    if len(sizes) == len(known) == 1:
        return known[0][0], known[0][1]
    raise ExportError(
        f"the convolutions of the graph's {MIXER_OP} nodes have the shapes {sorted(sizes)}: expected one known shape "
        "(channels, taps), for which the body is written; export models whose mixers are all of one width"
    )
