"""The mixer's core in one native call, on every instruction set, against the same operations in torch in fp64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.native.library import MixerShape, NativeScan, NativeUnavailable, load_native_scan
from rs4d_edge.reference.mixer import depthwise_conv_reference
from rs4d_edge.reference.scan import selective_scan_chunked

SHAPES = [MixerShape(1, 70, 48, 16, 16, 4), MixerShape(2, 33, 40, 8, 5, 4), MixerShape(1, 65, 130, 4, 9, 3),
          MixerShape(1, 2, 19, 5, 1, 4), MixerShape(3, 1, 16, 16, 2, 2), MixerShape(1, 200, 64, 16, 16, 4),
          MixerShape(1, 90, 384, 16, 12, 4)]  # fmt: skip


@pytest.fixture(params=["avx512", "avx2", "base"])
def native(request: pytest.FixtureRequest) -> Iterator[NativeScan]:
    try:
        library = load_native_scan()
    except NativeUnavailable as error:
        pytest.skip(str(error))
    try:
        library.select_isa(request.param)
    except RuntimeUnavailable:
        pytest.skip(f"this machine has no {request.param}")
    yield library
    library.select_isa("auto")


def make_inputs(shape: MixerShape) -> list[Tensor]:
    """In the order of `NativeScan.mixer_core`; the step sizes' biases reach from -7 to 3."""
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


def expected(shape: MixerShape, inputs: list[Tensor]) -> Tensor:
    uz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, a, d = (x.double() for x in inputs)
    u, z = uz.chunk(2, dim=-1)
    total = torch.zeros_like(u)
    for reverse in (False, True):
        v = functional.silu(depthwise_conv_reference(u, conv_weight[:, None], conv_bias, reverse=reverse))
        dt, b, c = (v @ x_proj.t()).split_with_sizes([shape.rank, shape.states, shape.states], dim=-1)
        delta = functional.softplus(dt @ dt_proj.t() + dt_bias)
        total = total + selective_scan_chunked(v, delta, a, b, c, d, reverse=reverse)
    return 0.5 * total * functional.silu(z)


def run(native: NativeScan, shape: MixerShape, inputs: list[Tensor], threads: int) -> Tensor:
    y = torch.full((shape.batch, shape.length, shape.channels), torch.nan)
    workspace = torch.full((native.mixer_workspace_floats(shape, threads=threads),), torch.nan)
    addresses = tuple(x.data_ptr() for x in inputs)
    native.mixer_core(addresses, shape, y.data_ptr(), workspace.data_ptr(), threads=threads)
    return y


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_float64(native: NativeScan, shape: MixerShape) -> None:
    inputs = make_inputs(shape)
    y, wanted = run(native, shape, inputs, 2), expected(shape, inputs)
    assert float((y - wanted).abs().max()) <= 2e-6 * float(wanted.abs().max())
    assert torch.equal(y, run(native, shape, inputs, 1))


@pytest.mark.parametrize("threads", [3, 7, 32])
@pytest.mark.parametrize("shape", [*SHAPES, MixerShape(1, 4229, 40, 8, 3, 4)], ids=str)
def test_more_threads_than_directions_do_not_change_a_bit(native: NativeScan, shape: MixerShape, threads: int) -> None:
    inputs = make_inputs(shape)
    assert torch.equal(run(native, shape, inputs, threads), run(native, shape, inputs, 1))


@pytest.mark.parametrize("value", [0.0, 1e-40, 100.0, -100.0, 1e6, -1e6])
def test_extreme_activations_stay_finite(native: NativeScan, value: float) -> None:
    shape = MixerShape(1, 40, 32, 8, 2, 4)
    inputs = make_inputs(shape)
    inputs[0][:] = value
    y, wanted = run(native, shape, inputs, 2), expected(shape, inputs)
    assert torch.isfinite(y).all()
    assert float((y - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max()) + 1e-6


def test_too_many_states_are_refused(native: NativeScan) -> None:
    with pytest.raises(RuntimeUnavailable, match="more states"):
        native.mixer_workspace_floats(MixerShape(1, 2, 16, 1025, 1, 4))
