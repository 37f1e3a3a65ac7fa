"""The mixer's convolution for training: the forward pass of torch, with a backward pass made for few taps.

torch's weight gradient of a depthwise convolution costs more than the scan's backward pass (a fifth of a training step
on CPU). With K taps it is K products of shifted gradients and inputs, and the input's gradient is the convolution in
the other direction.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def directed_conv(tokens: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool) -> Tensor:
    """Causal (or, with `reverse`, anti-causal) depthwise convolution of (B, L, E) by (E, 1, K) and (E,)."""
    width, length = weight.shape[-1], tokens.shape[1]
    taps = (weight.flip(-1) if reverse else weight).unsqueeze(2)  # (E, 1, 1, K)
    # (B, E, 1, L) with channels innermost is a view of the tokens in torch's channels_last layout: no copy is made.
    rows = functional.conv2d(
        tokens.transpose(1, 2).unsqueeze(2), taps, bias, padding=(0, width - 1), groups=weight.shape[0]
    )
    start = width - 1 if reverse else 0
    return rows.squeeze(2)[:, :, start : start + length].transpose(1, 2)


class DirectedConv(torch.autograd.Function):
    """`directed_conv` with the fast backward pass; sums over tokens are kept in fp32."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor, reverse: bool) -> Tensor:
        """See `directed_conv`. Weight and bias are used in the tokens' dtype."""
        ctx.save_for_backward(tokens, weight)
        ctx.reverse = reverse
        return directed_conv(tokens, weight.to(tokens.dtype), bias.to(tokens.dtype), reverse=reverse)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of tokens, weight and bias."""
        tokens, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        width, length = weight.shape[-1], tokens.shape[1]
        by_tokens = directed_conv(gradient, weight.to(gradient.dtype), None, reverse=not ctx.reverse)
        by_tap = []
        for distance in range(width - 1, -1, -1):  # the last tap sees the token itself
            early, late = slice(0, length - distance), slice(distance, length)
            at, seen = (early, late) if ctx.reverse else (late, early)
            by_tap.append((gradient[:, at] * tokens[:, seen]).sum((0, 1), dtype=torch.float32))
        by_weight = torch.stack(by_tap, dim=-1).unsqueeze(1).to(weight.dtype)
        return by_tokens, by_weight, gradient.sum((0, 1), dtype=torch.float32).to(weight.dtype), None
