"""The selective scan in plain operators without a loop, for GPUs: `rs4d::SelectiveScan`'s body in TensorRT's graphs.

A loop's rounds are kernels that wait for each other, and it may keep the engine out of a CUDA graph. This body is
written out for one number of tokens, on two levels:

1. chunks of `CHUNK` tokens side by side, token by token from a zero state, with what these states give as output;
2. over the chunks' last states by doubling: after the pass of stride s, a state covers the 2s chunks that end with it,
   last[k] + exp(A sum of delta over chunks k-s+1 .. k) last[k-s];
3. for each token, what the chunk before adds: its state, decayed by exp(A sum of delta since the chunk began).

So every factor is an exp of a number <= 0, and nothing is divided: exact for any step size, as in `scan_function`.

Doubling within the chunks, too, needs fewer steps (4 for 16 tokens), each over all tokens x channels x states. For a
mixer's core of 4096x512x16 (tokens, channels, states), both directions, TensorRT-RTX 1.7 plans 408 MB of activations
for this body, 360 for doubling throughout and 144 for the loop of `scan_function`; ONNX Runtime, which compares the
graph with the reference, took 1.2 to 1.4 and 2.0 to 2.2 times as long as for the loop (2 threads of a busy machine).
"""

from __future__ import annotations

import onnx.parser
from onnx import FunctionProto, ModelProto

from rs4d_edge.errors import ExportError
from rs4d_edge.export.mixer_function import MIXER_OP
from rs4d_edge.export.scan_function import SCAN_DOMAIN, SCAN_OP

CHUNK = 16

# Axes: B batch, L tokens, E channels, N states, K chunks, T tokens of a chunk. u, delta (B, L, E); a (E, N);
# b, c (B, L, N); d (E). Of one token of each chunk: delta, x (B, K, 1, E); b, c (B, K, N, 1); states (B, K, N, E).
# Padding at the end has delta 0.
_HEAD = """
<domain: "rs4d", opset_import: ["" : 18]>
SelectiveScan <reverse: int = 0> (u, delta, a, b, c, d) => (y)
{
  i0 = Constant <value_ints: ints = [0]> ()
  i1 = Constant <value_ints: ints = [1]> ()
  i2 = Constant <value_ints: ints = [2]> ()
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
  pads = Constant <value_ints: ints = [0, 0, 0, 0, MISSING, 0]> ()
  by_channel = Constant <value_ints: ints = [0, CHUNKS, CHUNK, -1]> ()
  by_state = Constant <value_ints: ints = [0, CHUNKS, -1, 1]> ()
  a_rows = Transpose <perm: ints = [1, 0]> (a)
"""
_TAIL = """
  y_shape = Constant <value_ints: ints = [0, PADDED, -1]> ()
  y_padded = Reshape (y_chunks, y_shape)
  length = Constant <value_ints: ints = [TOKENS]> ()
  y_states = Slice (y_padded, i0, length, i1)
  skipped = Mul (d, u_read)
  y_read = Add (y_states, skipped)
  y = Slice (y_read, start, end, i1, step)
}
"""
_TOKENS = range(CHUNK)


def plain_scan_function(length: int) -> FunctionProto:
    """`rs4d::SelectiveScan` for `length` tokens without a loop, for `ModelProto.functions`."""
    chunks = -(-length // CHUNK)
    lines = []
    for name, shape in (("delta", "by_channel"), ("x", "by_channel"), ("b", "by_state"), ("c", "by_state")):
        pieces = ", ".join(f"{name}_{token}" for token in _TOKENS)
        lines += [
            f"{name}_padded = Pad ({name}_read, pads)",
            f"{name}_chunks = Reshape ({name}_padded, {shape})",
            f"{pieces} = Split <axis: int = 2, num_outputs: int = {CHUNK}> ({name}_chunks)",
        ]
    lines += _from_zero()
    if chunks > 1:
        lines += _carry(chunks) + _from_before()
    kind = "y" if chunks > 1 else "own"
    lines += [f"y_chunks = Concat <axis: int = 2> ({', '.join(f'{kind}_{token}' for token in _TOKENS)})"]
    body = _HEAD + "".join(f"  {line}\n" for line in lines) + _TAIL
    padded = chunks * CHUNK
    for word, number in (("MISSING", padded - length), ("PADDED", padded), ("TOKENS", length), ("CHUNKS", chunks)):
        body = body.replace(word, str(number))
    return onnx.parser.parse_function(body.replace("CHUNK", str(CHUNK)))


def add_plain_scan_function(model: ModelProto) -> ModelProto:
    """`model` with this body for its scans in place of another, if it has any; changed in place.

    Raises ExportError where scans differ in length or the length is not known, since a body is written for one.
    """
    graph = model.graph
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info)
    }
    scans = [node for node in graph.node if node.domain == SCAN_DOMAIN and node.op_type in (SCAN_OP, MIXER_OP)]
    lengths = {tuple(shapes.get(node.input[0], ())[1:2]) for node in scans}  # the first input is (B, L, channels)
    known = [length[0] for length in lengths if length and length[0]]
    if not scans:
        return model
    if len(lengths) != 1 or not known:
        raise ExportError(
            f"the graph's scans have the lengths {sorted(length[0] if length else 0 for length in lengths)} (0: not "
            "known): expected one number of tokens, for which the body without a loop is written; export models whose "
            "mixers all see the same tokens, or with --scan plugin"
        )
    others = [function for function in model.functions if (function.domain, function.name) != (SCAN_DOMAIN, SCAN_OP)]
    functions = [plain_scan_function(known[0]), *others]
    del model.functions[:]
    model.functions.extend(functions)
    return model


def _from_zero() -> list[str]:
    """Step 1: `state_t` and `own_t` (B, K, 1, E) for each token t of the chunks."""
    lines = ["state_0 = Mul (x_0, b_0)"]
    for token in _TOKENS[1:]:
        lines += [
            f"exponent_{token} = Mul (delta_{token}, a_rows)",
            f"decay_{token} = Exp (exponent_{token})",
            f"kept_{token} = Mul (decay_{token}, state_{token - 1})",
            f"added_{token} = Mul (x_{token}, b_{token})",
            f"state_{token} = Add (kept_{token}, added_{token})",
        ]
    for token in _TOKENS:
        lines += [
            f"weighted_{token} = Mul (state_{token}, c_{token})",
            f"own_{token} = ReduceSum <keepdims: int = 1> (weighted_{token}, i2)",
        ]
    return lines


def _carry(chunks: int) -> list[str]:
    """Step 2: `since_t` (B, K, 1, E), the sum of delta since the chunk began, and `begin` (B, K, N, E)."""
    count = chunks - 1  # the last chunk's state has no chunk to go to
    lines = ["since_0 = Identity (delta_0)"]
    lines += [f"since_{token} = Add (since_{token - 1}, delta_{token})" for token in _TOKENS[1:]]
    lines += [
        f"count = Constant <value_ints: ints = [{count}]> ()",
        f"sum_1 = Slice (since_{CHUNK - 1}, i0, count, i1)",
        f"last_1 = Slice (state_{CHUNK - 1}, i0, count, i1)",
    ]
    stride = 1
    while stride < count:
        lines += [
            f"stride_{stride} = Constant <value_ints: ints = [{stride}]> ()",
            f"rest_{stride} = Constant <value_ints: ints = [{count - stride}]> ()",
        ]
        for name in (f"sum_{stride}", f"last_{stride}"):
            lines += [
                f"{name}_first = Slice ({name}, i0, stride_{stride}, i1)",
                f"{name}_here = Slice ({name}, stride_{stride}, count, i1)",
                f"{name}_before = Slice ({name}, i0, rest_{stride}, i1)",
            ]
        lines += [
            f"last_{stride}_exponent = Mul (sum_{stride}_here, a_rows)",
            f"last_{stride}_decay = Exp (last_{stride}_exponent)",
            f"last_{stride}_kept = Mul (last_{stride}_decay, last_{stride}_before)",
            f"last_{stride}_later = Add (last_{stride}_here, last_{stride}_kept)",
            f"sum_{stride}_later = Add (sum_{stride}_here, sum_{stride}_before)",
            f"last_{2 * stride} = Concat <axis: int = 1> (last_{stride}_first, last_{stride}_later)",
            f"sum_{2 * stride} = Concat <axis: int = 1> (sum_{stride}_first, sum_{stride}_later)",
        ]
        stride *= 2
    return [
        *lines,
        "one_ahead = Constant <value_ints: ints = [0, 1, 0, 0, 0, 0, 0, 0]> ()",
        f"begin = Pad (last_{stride}, one_ahead)",
    ]


def _from_before() -> list[str]:
    """Step 3: `y_t` (B, K, 1, E)."""
    lines = []
    for token in _TOKENS:
        lines += [
            f"since_exponent_{token} = Mul (since_{token}, a_rows)",
            f"since_decay_{token} = Exp (since_exponent_{token})",
            f"carried_{token} = Mul (since_decay_{token}, begin)",
            f"carried_weighted_{token} = Mul (carried_{token}, c_{token})",
            f"others_{token} = ReduceSum <keepdims: int = 1> (carried_weighted_{token}, i2)",
            f"y_{token} = Add (own_{token}, others_{token})",
        ]
    return lines
