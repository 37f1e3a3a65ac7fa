from __future__ import annotations

import pytest
import torch

from rs4d_edge.reference.mixer import depthwise_conv, depthwise_conv_reference

SEEN = ("tokens", "weight", "bias")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 3, 4, 29])  # shorter than, as long as, and longer than the four taps
def test_gradients_are_those_of_the_plain_form(reverse: bool, length: int) -> None:
    shapes = ((2, length, 6), (6, 1, 4), (6,))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    plain_inputs = [value.detach().clone().requires_grad_() for value in inputs]
    output = depthwise_conv(*inputs, reverse=reverse)
    plain = depthwise_conv_reference(*plain_inputs, reverse=reverse)
    torch.testing.assert_close(output, plain)
    gradient = torch.randn_like(plain)
    torch.autograd.backward(output, gradient)
    torch.autograd.backward(plain, gradient)
    for name, value, expected in zip(SEEN, inputs, plain_inputs, strict=True):
        assert expected.grad is not None
        assert expected.grad.abs().max() > 0
        assert value.grad is not None
        difference = (value.grad - expected.grad).abs().max()
        assert difference < 1e-5, name  # sums over tokens are kept in fp32, whatever the dtype


def test_half_precision_sums_are_kept_in_single_precision() -> None:
    """1024 equal products of 1/256: bf16 would stop adding at 1."""
    tokens = torch.full((1, 1024, 2), 1 / 16, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.ones(2, 1, 4, requires_grad=True)
    bias = torch.zeros(2, requires_grad=True)
    output = depthwise_conv(tokens, weight, bias, reverse=False)
    assert output.grad_fn is not None
    assert "DirectedConv" in output.grad_fn.name()
    assert output.dtype == torch.bfloat16
    torch.autograd.backward(output, torch.full_like(output, 1 / 16))
    assert weight.grad is not None
    assert bias.grad is not None
    expected = torch.tensor([1021.0, 1022.0, 1023.0, 1024.0]) / 256
    torch.testing.assert_close(weight.grad[:, 0], expected.expand(2, 4))
    torch.testing.assert_close(bias.grad, torch.full((2,), 64.0))
