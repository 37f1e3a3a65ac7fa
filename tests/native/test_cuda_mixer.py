"""The kernels around the CUDA scan and a whole mixer's core by them, run on the CPU by cuda_emulation, against fp64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rs4d_edge.errors import InputError
from rs4d_edge.native.cuda_launch import Element, launch_conv, launch_gate
from rs4d_edge.native.library import MixerShape, ScanShape
from rs4d_edge.reference.mixer import depthwise_conv_reference
from rs4d_edge.reference.scan import selective_scan_chunked
from tests.native.cuda_emulation import Emulation

SHAPES = [MixerShape(1, 70, 48, 16, 16, 4), MixerShape(2, 33, 40, 8, 5, 4), MixerShape(1, 65, 130, 4, 9, 3),
          MixerShape(1, 2, 19, 5, 1, 2), MixerShape(3, 1, 16, 16, 2, 1), MixerShape(1, 300, 24, 8, 4, 4)]  # fmt: skip
TYPES: list[tuple[Element, torch.dtype, float]] = [
    ("f32", torch.float32, 2e-6),
    ("f16", torch.float16, 2.0**-10),
    ("bf16", torch.bfloat16, 2.0**-7),
]


@pytest.fixture
def cuda() -> Iterator[Emulation]:
    emulation = Emulation()
    emulation.reset()
    yield emulation
    emulation.reset()


def make_inputs(shape: MixerShape) -> list[Tensor]:
    """In the order of `rs4d::mixer_core`; the step sizes' biases reach from -7 to 3."""
    random = torch.Generator().manual_seed(0)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*size, generator=random) * scale

    batch, length, channels, states, rank, taps = shape
    return [
        normal(batch, length, 2 * channels, scale=2.0),
        normal(channels, taps, scale=0.5),
        normal(channels, scale=0.1),
        normal(rank + 2 * states, channels, scale=channels**-0.5),
        normal(channels, rank, scale=rank**-0.5),
        torch.rand(channels, generator=random) * 10.0 - 7.0,
        -torch.exp(torch.rand(channels, states, generator=random) * 4.15),
        normal(channels),
    ]


def convolved(inputs: list[Tensor]) -> Tensor:
    """SiLU of both directions' convolutions in fp64."""
    u, weight, bias = inputs[0].double().chunk(2, dim=-1)[0], inputs[1].double()[:, None], inputs[2].double()
    return torch.stack([functional.silu(depthwise_conv_reference(u, weight, bias, reverse=i == 1)) for i in range(2)])


def expected(shape: MixerShape, inputs: list[Tensor]) -> Tensor:
    x_proj, dt_proj, dt_bias, a, d = (x.double() for x in inputs[3:])
    total = torch.zeros(shape.batch, shape.length, shape.channels, dtype=torch.float64)
    for i, v in enumerate(convolved(inputs)):
        dt, b, c = (v @ x_proj.t()).split_with_sizes([shape.rank, shape.states, shape.states], dim=-1)
        delta = functional.softplus(dt @ dt_proj.t() + dt_bias)
        total += selective_scan_chunked(v, delta, a, b, c, d, reverse=i == 1)
    return 0.5 * total * functional.silu(inputs[0].double().chunk(2, dim=-1)[1])


def relative(actual: Tensor, wanted: Tensor) -> float:
    return float((actual.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(("element", "dtype", "tolerance"), TYPES, ids=[name for name, _, _ in TYPES])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolution(
    cuda: Emulation, shape: MixerShape, element: Element, dtype: torch.dtype, tolerance: float
) -> None:
    inputs = make_inputs(shape)
    inputs[0] = inputs[0].to(dtype)
    v = torch.full((2, shape.batch, shape.length, shape.channels), torch.nan, dtype=dtype)
    addresses = (inputs[0].data_ptr(), inputs[1].data_ptr(), inputs[2].data_ptr(), v.data_ptr())
    launch_conv(cuda.scan.kernels, ScanShape(*shape[:4]), element, addresses, taps=shape.taps)
    assert relative(v, convolved(inputs)) <= tolerance


@pytest.mark.parametrize(("element", "dtype", "tolerance"), TYPES, ids=[name for name, _, _ in TYPES])
def test_gate(cuda: Emulation, element: Element, dtype: torch.dtype, tolerance: float) -> None:
    """Also far out, where the exponential is infinite or nothing."""
    uz = torch.linspace(-200.0, 200.0, 2 * 37 * 2 * 70).reshape(2, 37, 140).to(dtype)
    y, out = torch.randn(2, 2, 37, 70).to(dtype), torch.full((2, 37, 70), torch.nan, dtype=dtype)
    addresses = (y.data_ptr(), uz.data_ptr(), out.data_ptr())
    launch_gate(cuda.scan.kernels, ScanShape(2, 37, 70, 8), element, addresses)
    assert relative(out, y.double().mean(0) * functional.silu(uz[..., 70:].double())) <= tolerance


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mixer_core_agrees_with_float64(cuda: Emulation, shape: MixerShape) -> None:
    inputs = make_inputs(shape)
    assert relative(cuda.scan.mixer_core(*inputs), expected(shape, inputs)) <= 2e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixer_core_in_narrow_types(cuda: Emulation, dtype: torch.dtype) -> None:
    """All intermediate arrays are rounded, the states are not: the error stays at a few roundings."""
    inputs = make_inputs(SHAPES[-1])
    inputs[0] = inputs[0].to(dtype)
    y = cuda.scan.mixer_core(*inputs)
    assert y.dtype == dtype
    assert relative(y, expected(SHAPES[-1], inputs)) <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("value", [0.0, 1e-40, 100.0, -100.0, 1e6, -1e6])
def test_extreme_activations_stay_finite(cuda: Emulation, value: float) -> None:
    shape = MixerShape(1, 40, 32, 8, 2, 4)
    inputs = make_inputs(shape)
    inputs[0][:] = value
    y, wanted = cuda.scan.mixer_core(*inputs), expected(shape, inputs)
    assert torch.isfinite(y).all()
    assert float((y - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max()) + 1e-6


def test_more_taps_than_compiled_are_refused(cuda: Emulation) -> None:
    with pytest.raises(InputError, match="5 taps"):
        cuda.scan.mixer_core(*make_inputs(MixerShape(1, 8, 16, 8, 2, 5)))
