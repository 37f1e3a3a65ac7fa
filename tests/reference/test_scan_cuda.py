"""The CUDA kernels behind torch's operators. What needs a GPU is skipped where there is none.

tests/native/test_cuda_scan.py runs the same kernels on the CPU.
"""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rs4d_edge.native.cuda_driver import CudaDriver
from rs4d_edge.native.library import HIDE_VARIABLE
from rs4d_edge.reference import scan_cuda
from rs4d_edge.reference.depthwise import directed_conv
from rs4d_edge.reference.scan import selective_scan, selective_scan_chunked, selective_scan_reference
from rs4d_edge.reference.scan_cuda import CudaScan, cuda_scan_or_none, selective_scan_bidirectional

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or torch without CUDA")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def make_inputs(batch: int, length: int, channels: int, states: int) -> list[Tensor]:
    """Both directions' u, delta in [1e-3, 1], a in [-64, -1], b, c, d, on the CPU."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    delta = torch.exp(torch.rand(2, batch, length, channels, generator=random) * 6.9 - 6.9)
    a = -torch.exp(torch.rand(channels, states, generator=random) * 4.15)
    tokens, narrow = (2, batch, length, channels), (2, batch, length, states)
    return [normal(*tokens), delta, a, normal(*narrow), normal(*narrow), normal(channels)]


def half(inputs: list[Tensor], i: int) -> list[Tensor]:
    return [x[i] if x.dim() == 4 else x for x in inputs]


def expected(inputs: list[Tensor]) -> Tensor:
    exact = [x.double() for x in inputs]
    return torch.stack([selective_scan_reference(*half(exact, i), reverse=i == 1) for i in range(2)])


def relative(actual: Tensor, wanted: Tensor) -> float:
    return float((actual.cpu().double() - wanted).abs().max() / wanted.abs().max())


def test_both_directions_without_a_gpu_are_two_scans() -> None:
    inputs = make_inputs(2, 40, 17, 8)
    assert relative(selective_scan_bidirectional(*inputs), expected(inputs)) <= 1e-6


def test_the_op_keeps_torch_s_rules() -> None:
    op = torch.ops.rs4d.selective_scan_bidirectional.default
    torch.library.opcheck(op, tuple(make_inputs(1, 9, 5, 4)), test_utils=("test_schema", "test_faketensor"))


def test_other_devices_have_no_cuda_kernels() -> None:
    assert cuda_scan_or_none(torch.device("cpu")) is None


def test_a_missing_driver_is_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_cuda, "CudaDriver", functools.partial(CudaDriver, library="libnothing.so.9"))
    monkeypatch.setattr(scan_cuda, "_load", functools.cache(scan_cuda._load.__wrapped__))
    with pytest.warns(UserWarning, match="CUDA device 5 without its kernel, .* no CUDA driver"):
        assert cuda_scan_or_none(torch.device("cuda:5")) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cuda_scan_or_none(torch.device("cuda:5")) is None
        monkeypatch.setenv(HIDE_VARIABLE, "1")
        assert cuda_scan_or_none(torch.device("cuda:6")) is None


@pytest.fixture
def gpu() -> CudaScan:
    kernels = cuda_scan_or_none(torch.device("cuda"))
    assert kernels is not None
    return kernels


@needs_gpu
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("segments", [None, 1, 7])
@pytest.mark.parametrize("sizes", [(1, 1, 32, 16), (2, 7, 40, 4), (1, 1600, 256, 8), (1, 700, 513, 16)], ids=str)
def test_on_a_gpu_as_in_float64(
    gpu: CudaScan, sizes: tuple[int, int, int, int], segments: int | None, dtype: torch.dtype
) -> None:
    u, delta, a, b, c, d = make_inputs(*sizes)
    inputs = [u.to(dtype), delta.to(dtype), a, b.to(dtype), c.to(dtype), d]
    y = gpu.scan(*(x.cuda() for x in inputs), segments=segments)
    assert y.dtype == dtype
    assert relative(y, expected(inputs)) <= TOLERANCE[dtype]


@needs_gpu
@pytest.mark.parametrize("reverse", [False, True])
def test_on_a_gpu_the_operator_and_its_gradients(reverse: bool) -> None:
    inputs = half(make_inputs(2, 65, 48, 8), int(reverse))
    exact = [x.double().requires_grad_() for x in inputs]
    single = [x.cuda().requires_grad_() for x in inputs]
    wanted, y = selective_scan_reference(*exact, reverse=reverse), selective_scan(*single, reverse=reverse)
    assert relative(y.detach(), wanted.detach()) <= TOLERANCE[torch.float32]
    grads = torch.autograd.grad(y.square().sum(), single)
    for grad, exact_grad in zip(grads, torch.autograd.grad(wanted.square().sum(), exact), strict=True):
        assert relative(grad, exact_grad) <= 1e-5


@needs_gpu
@pytest.mark.parametrize("delta", [0.0, 1e-45, 1e-38, 1e4, 1e30, 3e38])
def test_on_a_gpu_extreme_steps_give_no_nan(gpu: CudaScan, delta: float) -> None:
    inputs = make_inputs(1, 96, 6, 8)
    inputs[0] *= 1e-9
    inputs[1][:] = delta
    inputs[2][:] = torch.tensor([-1e-45, -1e-30, -1.0, -64.0, -1e6, -3e38])[:, None]
    for segments in (1, 3):
        assert not torch.isnan(gpu.scan(*(x.cuda() for x in inputs), segments=segments)).any()


@needs_gpu
def test_on_a_gpu_work_stays_in_the_stream_s_order(gpu: CudaScan) -> None:
    """Behind a long product, on the stream of a capture, and replayed as a graph."""
    inputs = make_inputs(1, 500, 256, 16)
    placed, busy = [x.cuda() for x in inputs], torch.randn(4096, 4096, device="cuda")
    fed = torch.zeros_like(placed[0])
    gpu.scan(fed + 0.0 * (busy @ busy).sum(), *placed[1:])  # a capture must not be what loads a kernel
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fed.copy_(placed[0] + 0.0 * (busy @ busy).sum())
        y = gpu.scan(fed, *placed[1:])
    for _ in range(3):
        fed.zero_()
        graph.replay()
    torch.cuda.synchronize()
    assert relative(y, expected(inputs)) <= TOLERANCE[torch.float32]


@needs_gpu
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_on_a_gpu_a_mixer_s_core(gpu: CudaScan, dtype: torch.dtype) -> None:
    batch, length, channels, states, rank, taps = 2, 300, 192, 8, 12, 4
    random = torch.Generator().manual_seed(0)
    uz, weight, bias = (
        torch.randn(*s, generator=random) for s in ((batch, length, 2 * channels), (channels, taps), (channels,))
    )
    x_proj = torch.randn(rank + 2 * states, channels, generator=random) * channels**-0.5
    dt_proj = torch.randn(channels, rank, generator=random) * rank**-0.5
    dt_bias, d = torch.rand(channels, generator=random) * 10.0 - 7.0, torch.randn(channels, generator=random)
    a = -torch.exp(torch.rand(channels, states, generator=random) * 4.15)
    inputs = [uz.to(dtype), weight, bias, x_proj, dt_proj, dt_bias, a, d]
    exact = [x.double() for x in inputs]
    u, z = exact[0].chunk(2, dim=-1)
    wanted = torch.zeros(batch, length, channels, dtype=torch.float64)
    for reverse in (False, True):
        v = functional.silu(directed_conv(u, exact[1][:, None], exact[2], reverse=reverse))
        dt, b, c = (v @ exact[3].t()).split_with_sizes([rank, states, states], dim=-1)
        delta = functional.softplus(dt @ exact[4].t() + exact[5])
        wanted += 0.5 * selective_scan_chunked(v, delta, b=b, c=c, a=exact[6], d=exact[7], reverse=reverse)
    y = gpu.mixer_core(*(x.cuda() for x in inputs))
    assert relative(y, wanted * functional.silu(z)) <= 8 * TOLERANCE[dtype]
