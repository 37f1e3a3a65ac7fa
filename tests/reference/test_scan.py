"""Every form of the scan against the step-by-step oracle in fp64: values, gradients, extremes, export."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rs4d_edge.native.library import HIDE_VARIABLE, native_scan_or_none
from rs4d_edge.reference.scan import selective_scan, selective_scan_chunked, selective_scan_reference

FORMS = ["native", "plain"]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """`selective_scan` with and without the native library."""
    if request.param == "plain":
        monkeypatch.setenv(HIDE_VARIABLE, "1")
    else:
        monkeypatch.delenv(HIDE_VARIABLE, raising=False)
        if native_scan_or_none() is None:
            pytest.skip("the native scan is not built here")
    return str(request.param)


def make_inputs(batch: int, length: int, channels: int, states: int, seed: int = 0) -> list[Tensor]:
    """fp64 u, delta in [1e-3, 1], a in [-64, -1], b, c, d, all representable in fp32."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).double()

    delta = torch.exp(torch.rand(batch, length, channels, generator=random) * 6.9 - 6.9)
    a = -torch.exp(torch.rand(channels, states, generator=random) * 4.15)
    tokens, narrow = (batch, length, channels), (batch, length, states)
    return [normal(*tokens), delta.double(), a.double(), normal(*narrow), normal(*narrow), normal(channels)]


def relative(actual: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest wanted value."""
    actual, wanted = actual.detach(), wanted.detach()
    scale = float(wanted.abs().max()) if wanted.numel() else 0.0
    return float((actual - wanted).abs().max()) / scale if scale else float(actual.abs().sum())


SIZES = st.tuples(st.integers(1, 2), st.integers(1, 70), st.integers(1, 40), st.sampled_from([1, 3, 4, 8, 16, 17]))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(SIZES, st.booleans(), st.integers(0, 100))
def test_chunked_is_the_oracle(sizes: tuple[int, int, int, int], reverse: bool, seed: int) -> None:
    inputs = make_inputs(*sizes, seed=seed)
    wanted = selective_scan_reference(*inputs, reverse=reverse)
    assert relative(selective_scan_chunked(*inputs, reverse=reverse), wanted) <= 1e-13


@pytest.mark.parametrize("reverse", [False, True])
def test_values_and_gradients(form: str, reverse: bool) -> None:
    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(SIZES, st.integers(0, 100))
    def check(sizes: tuple[int, int, int, int], seed: int) -> None:
        exact = [x.requires_grad_() for x in make_inputs(*sizes, seed=seed)]
        single = [x.detach().float().requires_grad_() for x in exact]
        wanted, y = selective_scan_reference(*exact, reverse=reverse), selective_scan(*single, reverse=reverse)
        assert relative(y, wanted) <= 1e-6
        weights = torch.randn_like(y)
        grads = torch.autograd.grad(y, single, weights)
        for grad, exact_grad in zip(grads, torch.autograd.grad(wanted, exact, weights.double()), strict=True):
            assert relative(grad, exact_grad) <= 3e-6

    check()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([0.0, 1e-45, 1e-30, 1e-3, 1.0, 50.0, 1e4, 1e10]), min_size=1, max_size=12),
    st.sampled_from([-1e-6, -1.0, -16.0, -64.0, -1e4]),
    st.booleans(),
)
def test_extreme_steps(steps: list[float], decay: float, reverse: bool) -> None:
    """No form gives NaN where fp64 has a number, and all stay near it: this is where quotients of decays break."""
    inputs = make_inputs(1, len(steps), 17, 8)
    inputs[1][:] = torch.tensor(steps)[None, :, None]
    inputs[2][:] = decay
    single = [x.float() for x in inputs]
    wanted = selective_scan_reference(*[x.double() for x in single], reverse=reverse)
    for y in (selective_scan(*single, reverse=reverse), selective_scan_chunked(*single, reverse=reverse)):
        assert torch.isfinite(y).all()
        assert relative(y, wanted) <= 1e-6


def test_reverse_is_the_scan_of_the_flipped_tokens(form: str) -> None:
    u, delta, a, b, c, d = (x.float() for x in make_inputs(2, 31, 24, 16))
    flipped = selective_scan(u.flip(1), delta.flip(1), a, b.flip(1), c.flip(1), d).flip(1)
    torch.testing.assert_close(selective_scan(u, delta, a, b, c, d, reverse=True), flipped, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_kept(form: str, dtype: torch.dtype) -> None:
    inputs = [x.to(dtype).requires_grad_() for x in make_inputs(1, 20, 16, 8)]
    y = selective_scan(*inputs)
    assert y.dtype == dtype
    wanted = selective_scan_reference(*[x.double() for x in inputs])
    assert relative(y.double(), wanted) <= (1e-12 if dtype == torch.float64 else 2 * torch.finfo(dtype).eps)
    assert [grad.dtype for grad in torch.autograd.grad(y.sum(), inputs)] == [dtype] * 6


def test_strided_inputs_are_read_as_they_are(form: str) -> None:
    u, delta, a, b, c, d = (x.float() for x in make_inputs(2, 20, 16, 8))
    wide = torch.cat([u, delta], 2)
    narrow = torch.cat([b, c], 2)
    y = selective_scan(wide[..., :16], wide[..., 16:], a.t().contiguous().t(), narrow[..., :8], narrow[..., 8:], d)
    torch.testing.assert_close(y, selective_scan(u, delta, a, b, c, d), rtol=0, atol=0)


def test_no_tokens_give_no_output(form: str) -> None:
    assert selective_scan(*[x.float() for x in make_inputs(1, 0, 16, 8)]).shape == (1, 0, 16)


def test_the_op_keeps_torch_s_rules() -> None:
    inputs = [x.float().requires_grad_() for x in make_inputs(1, 9, 5, 4)]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.rs4d.selective_scan.default, (*inputs, True), test_utils=checks)


def test_export_keeps_one_node() -> None:
    class Scan(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return selective_scan(*inputs, reverse=True)

    program = torch.export.export(Scan(), tuple(x.float() for x in make_inputs(1, 9, 5, 4)))
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    assert [node.target for node in calls] == [torch.ops.rs4d.selective_scan.default]
