"""Launch the kernels of cuda_kernels.cu on addresses of device memory: their grids, arguments and workspace.

Needs neither torch nor an engine. Symbols: B sequences, L tokens, E channels, N states; D directions, 1 or 2.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rs4d_edge.errors import InputError
from rs4d_edge.native.cuda_driver import Address, Arguments, CudaKernels
from rs4d_edge.native.library import ScanShape

Element = Literal["f32", "f16", "bf16"]

MOST_TAPS = 4
_SCAN_THREADS, _SCAN_CHANNELS, _TILE_TOKENS = 128, 32, 32
_TOKEN_THREADS, _TOKEN_RUN = 64, 16
_STATE_SIZES = (8, 16)  # what the scan is compiled for
MOST_STATES = _STATE_SIZES[-1]
LARGEST_INDEX = 2**31 - 1
LARGEST_GRID = 65535  # blocks along y and z

# A segment is worth its second pass over the exponentials only where the first one leaves more than half of the GPU
# idle. Two blocks a multiprocessor are eight warps: two for each of its four schedulers.
_BLOCKS_PER_MULTIPROCESSOR = 2
_SHORTEST_SEGMENT = 4 * _TILE_TOKENS


class ScanArrays(NamedTuple):
    """Addresses of a scan's arrays; types and shapes as in cuda_kernels.cu. `dt_bias` 0: softplus has been taken."""

    u: int
    delta: int
    a: int
    b: int
    c: int
    d: int
    y: int
    dt_bias: int = 0


@dataclass(frozen=True)
class ScanPlan:
    """How a scan is spread over a GPU. `shape` is that of one direction.

    Attributes:
        segment_tokens: tokens of a segment, a multiple of a tile's.
        segments: segments of a sequence.
        carry_floats: fp32 workspace that the launch needs, 0 for one segment.
    """

    shape: ScanShape
    directions: int
    segment_tokens: int
    segments: int
    carry_floats: int

    @property
    def padded_states(self) -> int:
        """States that the kernel computes."""
        return next(size for size in _STATE_SIZES if size >= self.shape.states)


def plan_scan(shape: ScanShape, directions: int, multiprocessors: int, *, segments: int | None = None) -> ScanPlan:
    """Plan the scan of `directions` times `shape.batch` sequences; `segments` overrides the choice (tests, tuning).

    Raises:
        InputError: sizes that the kernels are not compiled for, or that do not fit a grid.
    """
    sequences = shape.batch * directions
    if not 1 <= shape.states <= MOST_STATES:
        raise InputError(f"CUDA scan: {shape.states} states, compiled for 1 to {MOST_STATES}: use the plain form")
    if directions not in (1, 2) or min(shape) < 1 or sequences > LARGEST_GRID or shape.length > LARGEST_INDEX // 2:
        raise InputError(f"CUDA scan: {shape} in {directions} directions does not fit: pass at most 65535 sequences")
    blocks = -(-shape.channels // _SCAN_CHANNELS) * sequences
    wanted = multiprocessors * _BLOCKS_PER_MULTIPROCESSOR
    if segments is None:
        longest = max(1, shape.length // _SHORTEST_SEGMENT)
        segments = 1 if 2 * blocks >= wanted else min(-(-wanted // blocks), longest)
    tiles = -(-shape.length // _TILE_TOKENS)
    segment_tokens = -(-tiles // min(segments, tiles)) * _TILE_TOKENS
    segments = -(-shape.length // segment_tokens)
    plan = ScanPlan(shape, directions, segment_tokens, segments, 0)
    carry = sequences * (segments - 1) * shape.channels * (plan.padded_states + 1)
    return ScanPlan(shape, directions, segment_tokens, segments, carry)


def launch_scan(
    kernels: CudaKernels,
    plan: ScanPlan,
    element: Element,
    arrays: ScanArrays,
    *,
    reverse: bool = False,
    narrow_row: int | None = None,
    carry: int = 0,
    stream: int = 0,
) -> None:
    """Scan as planned, on `stream`. One direction: from the last token if `reverse`. Two: the second one the other way.

    `narrow_row` is how many elements b and c lie from token to token, N by default; `carry` is the address of
    `plan.carry_floats` floats, aligned to 16 bytes.
    """
    shape = plan.shape
    pointers = (arrays.u, arrays.delta, arrays.a, arrays.b, arrays.c, arrays.d, arrays.dt_bias, arrays.y, carry)
    row = shape.states if narrow_row is None else narrow_row
    sizes = (shape.batch, shape.length, shape.channels, shape.states, row, plan.segment_tokens, int(reverse))
    arguments = kernel_arguments(pointers, sizes)
    name, groups = f"{element}_n{plan.padded_states}", -(-shape.channels // _SCAN_CHANNELS)
    sequences = shape.batch * plan.directions
    if plan.segments > 1:
        states_grid = (groups, plan.segments - 1, sequences)
        kernels.launch(f"rs4d_states_{name}", states_grid, _SCAN_THREADS, arguments, stream)
    kernels.launch(f"rs4d_scan_{name}", (groups, plan.segments, sequences), _SCAN_THREADS, arguments, stream)


def launch_conv(
    kernels: CudaKernels,
    shape: ScanShape,
    element: Element,
    addresses: tuple[int, int, int, int],
    *,
    taps: int,
    stream: int = 0,
) -> None:
    """SiLU of the convolution, both ways: uz (B, L, 2E), weight (E, taps), bias (E) to v (2, B, L, E).

    Raises:
        InputError: more taps than the kernel is compiled for, or too many tokens for a grid.
    """
    if not 1 <= taps <= MOST_TAPS:
        raise InputError(f"CUDA convolution: {taps} taps, compiled for 1 to {MOST_TAPS}: use the plain form")
    arguments = kernel_arguments(addresses, (shape.length, shape.channels, taps))
    kernels.launch(f"rs4d_conv_{element}", _token_grid(shape), _TOKEN_THREADS, arguments, stream)


def launch_gate(
    kernels: CudaKernels, shape: ScanShape, element: Element, addresses: tuple[int, int, int], *, stream: int = 0
) -> None:
    """The directions' mean times SiLU(z): y (2, B, L, E), uz (B, L, 2E) to out (B, L, E)."""
    arguments = kernel_arguments(addresses, (shape.length, shape.channels))
    kernels.launch(f"rs4d_gate_{element}", _token_grid(shape), _TOKEN_THREADS, arguments, stream)


def kernel_arguments(addresses: tuple[int, ...], sizes: tuple[int, ...]) -> Arguments:
    """In the order of cuda_kernels.cu: pointers, then ints."""
    return (*(Address(address) for address in addresses), *(ctypes.c_int(size) for size in sizes))


def _token_grid(shape: ScanShape) -> tuple[int, int, int]:
    runs = -(-shape.length // _TOKEN_RUN)
    if runs > LARGEST_GRID or shape.batch > LARGEST_GRID:
        raise InputError(
            f"CUDA mixer: {shape} has too many tokens for a grid: pass at most {LARGEST_GRID * _TOKEN_RUN}"
        )
    return -(-shape.channels // _TOKEN_THREADS), runs, shape.batch
