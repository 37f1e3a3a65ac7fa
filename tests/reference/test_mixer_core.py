"""The mixer's core as one operator against its pieces in float64: values, gradients, dtypes, layouts, torch's rules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rs4d_edge.errors import InputError
from rs4d_edge.native.library import HIDE_VARIABLE, MixerShape, native_scan_or_none
from rs4d_edge.reference.mixer import depthwise_conv_reference
from rs4d_edge.reference.mixer_core import mixer_core
from rs4d_edge.reference.scan import selective_scan_reference

TINY = MixerShape(batch=2, length=6, channels=3, states=2, rank=2, taps=3)
SHAPES = [
    MixerShape(batch=1, length=70, channels=48, states=16, rank=16, taps=4),
    MixerShape(batch=3, length=33, channels=40, states=8, rank=5, taps=4),
    MixerShape(batch=2, length=1, channels=19, states=5, rank=1, taps=2),
    TINY,
]


@pytest.fixture(params=["native", "composed"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """`mixer_core` with and without the native library."""
    if request.param == "composed":
        monkeypatch.setenv(HIDE_VARIABLE, "1")
    else:
        monkeypatch.delenv(HIDE_VARIABLE, raising=False)
        if native_scan_or_none() is None:
            pytest.skip("the native scan is not built here")
    return str(request.param)


def make_inputs(shape: MixerShape) -> list[Tensor]:
    """In the operator's order, in float64, all representable in fp32; the step sizes' biases reach from -6 to 1."""
    random = torch.Generator().manual_seed(1)
    batch, length, channels, states, rank, taps = shape

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, generator=random) * scale).double()

    return [
        normal(batch, length, 2 * channels, scale=2.0),
        normal(channels, taps, scale=0.5),
        normal(channels, scale=0.1),
        normal(rank + 2 * states, channels, scale=channels**-0.5),
        normal(channels, rank, scale=rank**-0.5),
        torch.rand(channels, generator=random).double() * 7.0 - 6.0,
        -torch.exp(torch.rand(channels, states, generator=random) * 4.0).double(),
        normal(channels),
    ]


def definition(inputs: list[Tensor]) -> Tensor:
    """From shifted products and the step-by-step scan; the second direction by flipping the tokens twice."""
    uz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, a, d = inputs
    u, z = uz.tensor_split(2, dim=2)
    rank, states = dt_proj.shape[1], a.shape[1]
    mean = torch.zeros_like(u)
    for turned in ((), (1,)):
        v = functional.silu(depthwise_conv_reference(u.flip(turned), conv_weight[:, None], conv_bias, reverse=False))
        narrow = v @ x_proj.t()
        dt, b, c = narrow[..., :rank], narrow[..., rank : rank + states], narrow[..., rank + states :]
        delta = functional.softplus(dt @ dt_proj.t() + dt_bias)
        mean = mean + selective_scan_reference(v, delta, a, b, c, d).flip(turned) / 2
    return mean * functional.silu(z)


def relative(actual: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest wanted value; a single token's decay has no gradient."""
    scale = float(wanted.detach().abs().max())
    return float((actual.detach() - wanted.detach()).abs().max()) / (scale or 1.0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_the_definition_s(form: str, shape: MixerShape) -> None:
    exact = [x.requires_grad_() for x in make_inputs(shape)]
    single = [x.detach().float().requires_grad_() for x in exact]
    y, wanted = mixer_core(*single), definition(exact)
    assert y.shape == (shape.batch, shape.length, shape.channels)
    assert relative(y, wanted) <= 1e-6
    weights = torch.randn_like(y)
    gradients = torch.autograd.grad(y, single, weights)
    for gradient, other in zip(gradients, torch.autograd.grad(wanted, exact, weights.double()), strict=True):
        assert relative(gradient, other) <= 5e-6


def test_gradients_are_those_of_finite_differences() -> None:
    inputs = tuple(x.requires_grad_() for x in make_inputs(TINY))
    assert torch.autograd.gradcheck(mixer_core, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_kept(form: str, dtype: torch.dtype) -> None:
    inputs = [x.to(dtype).requires_grad_() for x in make_inputs(TINY)]
    y, wanted = mixer_core(*inputs), definition([x.double() for x in inputs])
    assert y.dtype == dtype
    assert relative(y.double(), wanted) <= (1e-12 if dtype == torch.float64 else torch.finfo(dtype).eps)
    assert [gradient.dtype for gradient in torch.autograd.grad(y.sum(), inputs)] == [dtype] * 8


def test_low_precision_tokens_go_with_single_precision_weights(form: str) -> None:
    """As under autocast: only the rounding of the tokens and of the result is seen."""
    uz, *weights = (x.float() for x in make_inputs(SHAPES[0]))
    y = mixer_core(uz.bfloat16(), *weights)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, mixer_core(uz.bfloat16().float(), *weights).bfloat16(), rtol=0, atol=0)


def test_layout_of_the_inputs_does_not_matter(form: str) -> None:
    inputs = [x.float() for x in make_inputs(SHAPES[1])]
    turned = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in inputs]
    assert not turned[0].is_contiguous() and not turned[3].is_contiguous()
    y = mixer_core(*turned)
    assert y.is_contiguous()
    torch.testing.assert_close(y, mixer_core(*inputs), rtol=0, atol=0)


@pytest.mark.parametrize("position", range(8))
def test_shapes_that_do_not_go_together_are_refused(position: int) -> None:
    inputs = [x.float() for x in make_inputs(TINY)]
    inputs[position] = torch.cat([inputs[position]] * 2, dim=-1)
    if position == 1:
        inputs[1] = inputs[1][None]  # any number of taps is right
    with pytest.raises(InputError, match=r"uz \(2, 6, .* expected uz \(B, L, 2E\)"):
        mixer_core(*inputs)


def test_the_op_keeps_torch_s_rules() -> None:
    inputs = tuple(x.float().requires_grad_() for x in make_inputs(TINY))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.rs4d.mixer_core.default, inputs, test_utils=checks)


def test_export_keeps_one_node() -> None:
    class Core(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return mixer_core(*inputs)

    program = torch.export.export(Core(), tuple(x.float() for x in make_inputs(TINY)))
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    assert [node.target for node in calls] == [torch.ops.rs4d.mixer_core.default]
