"""The operators of a mixer's core that TensorRT lacks: their tensors, and the CUDA kernels that each one launches.

A core is three of them around two matrix products, which stay TensorRT's own:

    v = MixerConvolution(uz, weight, bias)      SiLU of the convolution of u, in both directions
    narrow = v x_proj^T                         in its columns dt, b and c
    dt = narrow[..., :R] dt_proj^T              without the bias
    y = MixerScan(v, dt, narrow, dt_bias, a, d) the step sizes softplus(dt + dt_bias), and the scan, in both directions
    out = MixerGate(y, uz)                      (y_forward + y_reverse) / 2 * SiLU(z)

Shapes: uz (B, L, 2E), u before z; weight (E, K); bias, dt_bias, d (E); a (E, N); v, dt, y (2B, L, E) and narrow
(2B, L, R + 2N): B of the forward direction, then B of the reverse one, whose tokens lie in the same order; out
(B, L, E). Weights are fp32, the rest is of one type: fp32, fp16 or bf16. States are fp32 always.
"""

from __future__ import annotations

from rs4d_edge.native.cuda_driver import CudaKernels
from rs4d_edge.native.cuda_launch import (
    Element,
    ScanArrays,
    launch_conv,
    launch_gate,
    launch_scan,
    plan_scan,
)
from rs4d_edge.native.library import ScanShape
from rs4d_edge.runtimes.tensorrt_operator import Buffers, Dims, Operator

_BYTES: dict[Element, int] = {"f32": 4, "f16": 2, "bf16": 2}
_MANY_PROCESSORS = 1 << 12  # more than a GPU has: the plan for them is cut into the most segments


def _scan_shape(dims: Dims) -> ScanShape:
    """Of one direction, from the shapes of MixerScan's inputs."""
    sequences, length, channels = dims[0]
    return ScanShape(sequences // 2, length, channels, dims[4][1])


def _scan_workspace(dims: Dims) -> int:
    return 4 * plan_scan(_scan_shape(dims), 2, _MANY_PROCESSORS).carry_floats


def _launch_convolution(kernels: CudaKernels, dims: Dims, buffers: Buffers, stream: int) -> None:
    (batch, length, _), (channels, taps) = dims[0], dims[1]
    uz, weight, bias = buffers.inputs
    addresses = (uz, weight, bias, buffers.output)
    shape = ScanShape(batch, length, channels, 0)
    launch_conv(kernels, shape, buffers.element, addresses, taps=taps, stream=stream)


def _launch_scan(kernels: CudaKernels, dims: Dims, buffers: Buffers, stream: int) -> None:
    shape, row = _scan_shape(dims), dims[2][2]
    plan = plan_scan(shape, 2, kernels.driver.multiprocessors)
    v, dt, narrow, dt_bias, a, d = buffers.inputs
    b = narrow + (row - 2 * shape.states) * _BYTES[buffers.element]  # behind dt's columns
    c = b + shape.states * _BYTES[buffers.element]
    arrays = ScanArrays(v, dt, a, b, c, d, buffers.output, dt_bias)
    carry = buffers.workspace if plan.carry_floats else 0
    launch_scan(kernels, plan, buffers.element, arrays, narrow_row=row, carry=carry, stream=stream)


def _launch_gate(kernels: CudaKernels, dims: Dims, buffers: Buffers, stream: int) -> None:
    (batch, length, _), channels = dims[1], dims[0][2]
    y, uz = buffers.inputs
    shape = ScanShape(batch, length, channels, 0)
    launch_gate(kernels, shape, buffers.element, (y, uz, buffers.output), stream=stream)


MIXER_OPERATORS = (
    Operator(
        "MixerConvolution",
        ("uz", "weight", "bias"),
        (1, 2),
        lambda dims, twice: (twice(dims[0][0]), dims[0][1], dims[1][0]),
        lambda dims: 0,
        _launch_convolution,
    ),
    Operator(
        "MixerScan",
        ("v", "dt", "narrow", "dt_bias", "a", "d"),
        (3, 4, 5),
        lambda dims, twice: tuple(dims[0]),
        _scan_workspace,
        _launch_scan,
    ),
    Operator(
        "MixerGate",
        ("y", "uz"),
        (),
        lambda dims, twice: (dims[1][0], dims[0][1], dims[0][2]),
        lambda dims: 0,
        _launch_gate,
    ),
)
