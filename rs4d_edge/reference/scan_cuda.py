"""The scan, and a mixer's core around it, by the CUDA kernels of rs4d_edge/native, on torch's tensors and streams.

Forward alone, for inference; gradients come from the plain forms. States are fp32; u, delta, b, c and y are fp32, fp16
or bf16. The kernels are compiled ahead by `python -m rs4d_edge.native.cuda_build`, else once per process by NVRTC.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from rs4d_edge.errors import InputError, RS4DError
from rs4d_edge.native.cuda_build import fatbin_path
from rs4d_edge.native.cuda_driver import CudaDriver, CudaKernels
from rs4d_edge.native.cuda_launch import (
    MOST_STATES,
    MOST_TAPS,
    Element,
    ScanArrays,
    launch_conv,
    launch_gate,
    launch_scan,
    plan_scan,
)
from rs4d_edge.native.cuda_nvrtc import compile_for
from rs4d_edge.native.library import HIDE_VARIABLE, ScanShape, native_hidden

ELEMENTS: dict[torch.dtype, Element] = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


class CudaScan:
    """The kernels on one device. `stream` gives the handle of the stream that work goes onto."""

    def __init__(self, kernels: CudaKernels, stream: Callable[[], int]) -> None:
        self.kernels = kernels
        self._stream = stream

    def scan(
        self,
        u: Tensor,
        delta: Tensor,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        d: Tensor,
        *,
        dt_bias: Tensor | None = None,
        reverse: bool = False,
        segments: int | None = None,
    ) -> Tensor:
        """One direction: u, delta (B, L, E), b, c (B, L, N). Both at once: with a leading 2, the second one reversed.

        With `dt_bias` (E,), delta is a projection of which softplus(delta + dt_bias) is still to be taken. b and c may
        be columns of a wider matrix. Where the four differ in dtype, they are read as fp32. Returns y like u, dense.
        `segments` overrides how the tokens are cut. Raises InputError for shapes that do not go together.
        """
        _check_shapes(u, delta, a, b, c, d)
        dtype = u.dtype if u.dtype == delta.dtype == b.dtype == c.dtype else torch.float32
        shape = ScanShape(u.shape[-3], u.shape[-2], u.shape[-1], a.shape[1])
        plan = plan_scan(
            shape, u.shape[0] if u.dim() == 4 else 1, self.kernels.driver.multiprocessors, segments=segments
        )
        read_u, delta = u.to(dtype).contiguous(), delta.to(dtype).contiguous()
        b, c, row = _narrow_rows(b.to(dtype), c.to(dtype))
        a, d = a.to(torch.float32).contiguous(), d.to(torch.float32).contiguous()
        bias = u.new_empty(0) if dt_bias is None else dt_bias.to(torch.float32).contiguous()
        y, carry = torch.empty_like(read_u), u.new_empty(plan.carry_floats, dtype=torch.float32)
        arrays = ScanArrays(*(x.data_ptr() for x in (read_u, delta, a, b, c, d, y, bias)))
        launch_scan(
            self.kernels,
            plan,
            ELEMENTS[dtype],
            arrays,
            reverse=reverse,
            narrow_row=row,
            carry=carry.data_ptr(),
            stream=self._stream(),
        )
        return y.to(u.dtype)

    def mixer_core(
        self,
        uz: Tensor,
        conv_weight: Tensor,
        conv_bias: Tensor,
        x_proj: Tensor,
        dt_proj: Tensor,
        dt_bias: Tensor,
        a: Tensor,
        d: Tensor,
    ) -> Tensor:
        """All that stands between in_proj and out_proj, in both directions: uz (B, L, 2E) to (B, L, E).

        Arguments are those of `rs4d::mixer_core`, sizes as `serves_mixer` allows. The two projections are torch's
        matrix products in the dtype of uz.
        """
        batch, length, _ = uz.shape
        channels, taps = conv_weight.shape
        states, rank = a.shape[1], dt_proj.shape[1]
        element, shape, uz = ELEMENTS[uz.dtype], ScanShape(batch, length, channels, states), uz.contiguous()
        weight, bias = conv_weight.to(torch.float32).contiguous(), conv_bias.to(torch.float32).contiguous()
        v = uz.new_empty(2, batch, length, channels)
        conv = (uz.data_ptr(), weight.data_ptr(), bias.data_ptr(), v.data_ptr())
        launch_conv(self.kernels, shape, element, conv, taps=taps, stream=self._stream())
        dt, b, c = functional.linear(v, x_proj.to(uz.dtype)).split_with_sizes([rank, states, states], dim=-1)
        delta = functional.linear(dt, dt_proj.to(uz.dtype))
        y, out = self.scan(v, delta, a, b, c, d, dt_bias=dt_bias), uz.new_empty(batch, length, channels)
        gate = (y.data_ptr(), uz.data_ptr(), out.data_ptr())
        launch_gate(self.kernels, shape, element, gate, stream=self._stream())
        return out


def serves_scan(u: Tensor, a: Tensor) -> bool:
    """Whether the kernels are compiled for such a scan: dtype, number of states, and anything to compute at all."""
    return u.dtype in ELEMENTS and 1 <= a.shape[1] <= MOST_STATES and u.numel() > 0


def serves_mixer(uz: Tensor, conv_weight: Tensor, a: Tensor) -> bool:
    """Whether the kernels are compiled for such a mixer's core."""
    return serves_scan(uz, a) and conv_weight.shape[1] <= MOST_TAPS


def cuda_scan_or_none(device: torch.device) -> CudaScan | None:
    """The kernels on a CUDA device, or None where they cannot be had; a warning then says why, once per device.

    None too where RS4D_NO_NATIVE hides everything native.
    """
    if device.type != "cuda" or native_hidden():
        return None
    return _load(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _load(ordinal: int) -> CudaScan | None:
    try:
        driver, built = CudaDriver(ordinal), fatbin_path()
        kernels = driver.load(built.read_bytes() if built.is_file() else compile_for(driver.architecture))
    except (RS4DError, OSError, AttributeError) as error:
        warnings.warn(
            f"the scan runs on CUDA device {ordinal} without its kernel, which makes it slower: {error} "
            f"({HIDE_VARIABLE}=1 silences this)",
            stacklevel=2,
        )
        return None
    return CudaScan(kernels, lambda: torch.cuda.current_stream(ordinal).cuda_stream)


def _check_shapes(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> None:
    """The kernels read by address and could not notice."""
    narrow, channels = (*u.shape[:-1], a.shape[-1]), u.shape[-1]
    wanted = [tuple(u.shape), (channels, a.shape[-1]), narrow, narrow, (channels,)]
    directed = u.dim() == 3 or (u.dim() == 4 and u.shape[0] == 2)
    if not directed or [tuple(x.shape) for x in (delta, a, b, c, d)] != wanted:
        given = ", ".join(str(tuple(x.shape)) for x in (u, delta, a, b, c, d))
        raise InputError(
            f"CUDA scan: u, delta, a, b, c, d of {given} do not go together; expected (B, L, E) twice, (E, N), "
            "(B, L, N) twice, (E,), or with a leading 2 for both directions: pass one scan's arrays"
        )


def _narrow_rows(b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, int]:
    """The rows of b and c (..., L, N) so that both lie the same number of elements apart, and that number."""
    row = b.stride(-2)
    if row >= b.shape[-1] and all(_steps_evenly(x, row) for x in (b, c)):
        return b, c, row
    return b.contiguous(), c.contiguous(), b.shape[-1]


def _steps_evenly(x: Tensor, row: int) -> bool:
    strides, expected = list(x.stride()), row
    for axis in range(x.dim() - 2, -1, -1):
        if x.shape[axis] > 1 and strides[axis] != expected:
            return False
        expected *= x.shape[axis]
    return strides[-1] == 1 or x.shape[-1] == 1


@torch.library.custom_op("rs4d::selective_scan_bidirectional", mutates_args=())
def selective_scan_bidirectional(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Both directions in one launch, for inference: u, delta, y (2, B, L, E); b, c (2, B, L, N); a (E, N); d (E,).

    [0] runs from the first token to the last, [1] from the last to the first. Elsewhere than on CUDA, and where its
    kernels are not to be had, two calls of `rs4d::selective_scan`.
    """
    kernels = cuda_scan_or_none(u.device) if serves_scan(u, a) else None
    if kernels is not None:
        return kernels.scan(u, delta, a, b, c, d)
    scan = torch.ops.rs4d.selective_scan
    return torch.stack([scan(u[i], delta[i], a, b[i], c[i], d, i == 1) for i in range(2)])


@selective_scan_bidirectional.register_fake
def _bidirectional_fake(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.empty_like(u, memory_format=torch.contiguous_format)
