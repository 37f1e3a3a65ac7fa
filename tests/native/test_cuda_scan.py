"""The CUDA scan's source, run on the CPU by cuda_emulation, against the step-by-step oracle in fp64."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rs4d_edge.reference.scan import selective_scan_reference
from tests.native.cuda_emulation import Emulation

# batch, length, channels, states, segments
SHAPES = [(1, 1, 32, 16, None), (2, 7, 40, 8, None), (1, 70, 33, 4, 1), (1, 97, 19, 5, 3), (2, 64, 64, 16, 2),
          (1, 1600, 24, 16, 1), (1, 1600, 40, 8, 7)]  # fmt: skip
EPSILON = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}  # half a unit in the last place


@pytest.fixture
def cuda() -> Iterator[Emulation]:
    emulation = Emulation()
    emulation.reset()
    yield emulation
    emulation.reset()


def make_inputs(
    batch: int, length: int, channels: int, states: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Both directions' u, delta in [1e-3, 1], a in [-64, -1], b, c, d; a and d are fp32."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    delta = torch.exp(torch.rand(2, batch, length, channels, generator=random) * 6.9 - 6.9)
    a = -torch.exp(torch.rand(channels, states, generator=random) * 4.15)
    tokens, narrow = (2, batch, length, channels), (2, batch, length, states)
    return [normal(*tokens).to(dtype), delta.to(dtype), a, *(normal(*narrow).to(dtype) for _ in "bc"), normal(channels)]


def direction(inputs: list[Tensor], i: int) -> list[Tensor]:
    return [x[i] if x.dim() == 4 else x for x in inputs]


def expected(inputs: list[Tensor]) -> Tensor:
    halves = ([x.double() for x in direction(inputs, i)] for i in range(2))
    return torch.stack([selective_scan_reference(*half, reverse=i == 1) for i, half in enumerate(halves)])


def relative(actual: Tensor, wanted: Tensor) -> float:
    return float((actual.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_directions_agree_with_float64(cuda: Emulation, shape: tuple[int, int, int, int, int | None]) -> None:
    inputs = make_inputs(*shape[:4])
    assert relative(cuda.scan.scan(*inputs, segments=shape[4]), expected(inputs)) <= 1e-6


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("segments", [1, 4])
def test_one_direction_is_its_half_of_both(cuda: Emulation, reverse: bool, segments: int) -> None:
    inputs = make_inputs(2, 130, 40, 8)
    both = cuda.scan.scan(*inputs, segments=segments)[int(reverse)]
    one = cuda.scan.scan(*direction(inputs, int(reverse)), reverse=reverse, segments=segments)
    torch.testing.assert_close(one, both, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("segments", [1, 3])
def test_narrow_types_lose_only_the_rounding_of_y(cuda: Emulation, dtype: torch.dtype, segments: int) -> None:
    inputs = make_inputs(1, 100, 40, 16, dtype)
    y, wanted = cuda.scan.scan(*inputs, segments=segments), expected(inputs)
    assert y.dtype == dtype
    assert bool(((y.double() - wanted).abs() <= 1.01 * EPSILON[dtype] * wanted.abs() + 1e-6).all())


def test_differing_types_are_read_as_fp32(cuda: Emulation) -> None:
    u, delta, a, b, c, d = make_inputs(1, 40, 32, 8)
    y = cuda.scan.scan(u.half(), delta, a, b.bfloat16(), c, d)
    wanted = cuda.scan.scan(u.half().float(), delta, a, b.bfloat16().float(), c, d).half()
    torch.testing.assert_close(y, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_value_of_a_narrow_type_is_read_and_rounded_as_torch_does(cuda: Emulation, dtype: torch.dtype) -> None:
    """With delta 0, y is d * u rounded: d makes products need rounding, or overflow. fp32's denormals count as 0."""
    u = torch.arange(2**16, dtype=torch.int32).sub(2**15).to(torch.int16).view(dtype)
    u = u[torch.isfinite(u) & ((u == 0) | (u.float().abs() >= 2.0**-126))]
    u = functional.pad(u, (0, -u.numel() % 64)).reshape(1, -1, 64)
    d = torch.linspace(1.0, 3.0, 64)
    zeros = torch.zeros(1, u.shape[1], 8, dtype=dtype)
    y = cuda.scan.scan(u, torch.zeros_like(u), -torch.ones(64, 8), zeros, zeros, d)
    assert torch.equal(y, (d * u.float()).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_softplus_is_taken_as_delta_is_loaded(cuda: Emulation, dtype: torch.dtype) -> None:
    """Of projections from far below 0 to far above, and with tiles that are not full."""
    u, _, a, b, c, d = make_inputs(1, 75, 40, 8, dtype)
    raw = torch.linspace(-30.0, 30.0, 2 * 75 * 40).reshape(2, 1, 75, 40).to(dtype)
    bias = torch.linspace(-7.0, 3.0, 40)
    delta = functional.softplus(raw.double() + bias.double(), threshold=1e9)
    wanted = expected([u, delta, a, b, c, d])
    y = cuda.scan.scan(u, raw, a, b, c, d, dt_bias=bias, segments=2)
    assert relative(y, wanted) <= (1e-6 if dtype == torch.float32 else EPSILON[dtype])


def test_b_and_c_may_be_columns_of_a_wider_matrix(cuda: Emulation) -> None:
    u, delta, a, b, c, d = make_inputs(2, 50, 40, 8)
    wide = torch.cat([torch.full((2, 2, 50, 5), torch.nan), b, c], dim=-1)
    y = cuda.scan.scan(u, delta, a, wide[..., 5:13], wide[..., 13:], d)
    torch.testing.assert_close(y, cuda.scan.scan(u, delta, a, b, c, d), rtol=0, atol=0)


@pytest.mark.parametrize("segments", [1, 3])
@pytest.mark.parametrize("delta", [0.0, 1e-45, 1e-38, 1e4, 1e20, 1e30, 3e38])
def test_extreme_values_give_no_nan(cuda: Emulation, delta: float, segments: int) -> None:
    """For decays from next to nothing to the largest number, one a channel."""
    inputs = make_inputs(1, 96, 6, 8)
    inputs[0] *= 1e-9
    inputs[1][:] = delta
    inputs[2][:] = torch.tensor([-1e-45, -1e-30, -1.0, -64.0, -1e6, -3e38])[:, None]
    y = cuda.scan.scan(*inputs, segments=segments)
    assert not torch.isnan(y).any()
    if delta <= 1e-38:
        torch.testing.assert_close(y, inputs[0] * inputs[5], rtol=1e-6, atol=1e-20)


def test_a_huge_step_forgets_everything_before_it(cuda: Emulation) -> None:
    inputs = direction(make_inputs(1, 128, 32, 16), 0)
    inputs[1][:, 64], inputs[0][:, 64] = 1e6, 0.0
    forgotten = [x[:, 64:].contiguous() if x.dim() == 3 else x for x in inputs]
    wanted = cuda.scan.scan(*forgotten, segments=1)
    for segments in (1, 2, 4):
        y = cuda.scan.scan(*inputs, segments=segments)[:, 64:]
        torch.testing.assert_close(y, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("segments", [1, 3])
def test_the_order_of_the_threads_changes_nothing(cuda: Emulation, segments: int) -> None:
    """Between two barriers any thread may be ahead: a missing barrier shows as a difference between the extremes."""
    inputs = make_inputs(1, 150, 40, 16)
    ascending = cuda.scan.scan(*inputs, segments=segments)
    cuda.run_threads_descending(True)
    assert torch.equal(cuda.scan.scan(*inputs, segments=segments), ascending)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_device_s_exponential_is_exact_enough(cuda: Emulation, sign: float) -> None:
    """Were it off by its documented 2^-22.5, always to the same side, a memory of n tokens would be off n times that.

    Decays from 1 on and steps from 1e-3 on give at most 1000 tokens of memory, and few states have that.
    """
    inputs = make_inputs(1, 1600, 16, 16)
    cuda.spoil_exponential(sign * 2.0**-22.5)
    assert relative(cuda.scan.scan(*inputs, segments=3), expected(inputs)) <= 1e-6


def test_nothing_past_the_arrays_is_touched(cuda: Emulation) -> None:
    """Each array ends where its mapping ends: reading or writing one element more ends the process."""
    inputs = direction(make_inputs(1, 45, 40, 5), 0)
    walled = [behind_a_wall(x) for x in inputs]
    for reverse in (False, True):
        y = cuda.scan.scan(*(x for x, _ in walled), reverse=reverse, segments=2)
        assert torch.equal(y, cuda.scan.scan(*inputs, reverse=reverse, segments=2))


def behind_a_wall(x: Tensor) -> tuple[Tensor, mmap.mmap]:
    """A copy whose last element is followed by a page that may not be touched, and its memory."""
    page, size = mmap.PAGESIZE, x.numel() * x.element_size()
    room = -(-size // page) * page
    memory = mmap.mmap(-1, room + page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address + room), ctypes.c_size_t(page), 0) == 0
    copy = torch.frombuffer(memory, dtype=x.dtype, count=x.numel(), offset=room - size).view(x.shape)
    return copy.copy_(x), memory
