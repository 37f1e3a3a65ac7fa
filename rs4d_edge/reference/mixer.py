"""The Mamba-1 mixer of an RS4D layer, run over the tokens in one or both directions with the same weights.

Symbols follow the Mamba paper (Gu and Dao, arXiv 2312.00752): B batch, L tokens, C token width, E inner width,
N states, R rank of the step-size projection. Parameter names are those of published RS4D checkpoints (and of
transformers' `MambaMixer`).

The published code runs the whole mixer on the tokens and again on the flipped tokens. in_proj, the gate and out_proj
act on single tokens, so here they run once for both directions, and the second direction is an anti-causal convolution
and a scan from the last token: same numbers, half the matrix work, nothing flipped in memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import EncoderConfig, PathType
from rs4d_edge.reference.depthwise import DirectedConv, directed_conv
from rs4d_edge.reference.mixer_core import mixer_core, selected_scan

_STEP_MIN, _STEP_MAX, _STEP_FLOOR = 1e-3, 1e-1, 1e-4  # initial step sizes, as in the Mamba paper


def depthwise_conv(tokens: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool) -> Tensor:
    """Convolve each channel along the tokens, seeing the token itself and the ones before it (after it if `reverse`).

    tokens (B, L, E), weight (E, 1, K), bias (E,); returns (B, L, E). `reverse` gives what flipping the tokens,
    convolving causally and flipping back gives.
    """
    if bias is not None and tokens.requires_grad and torch.is_grad_enabled():
        trained: Tensor = DirectedConv.apply(tokens, weight, bias, reverse)  # type: ignore[no-untyped-call]
        return trained
    return directed_conv(tokens, weight, bias, reverse=reverse)


def depthwise_conv_reference(tokens: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool) -> Tensor:
    """The same as `depthwise_conv`, as a sum of shifted products: its oracle, and a form for graphs without layouts."""
    width, length = weight.shape[-1], tokens.shape[1]
    taps = weight[:, 0].t()  # (K, E)
    padded = functional.pad(tokens, (0, 0, width - 1, width - 1))
    total = torch.zeros_like(tokens) if bias is None else bias.expand_as(tokens)
    for k in range(width):
        start = 2 * (width - 1) - k if reverse else k
        total = total + padded[:, start : start + length] * taps[k]
    return total


class Mixer(nn.Module):
    """Mamba-1 mixer on (B, L, C) tokens; see the module's text for the symbols."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        channels, inner, states, rank = config.channels, config.inner_channels, config.state_size, config.dt_rank
        self.path = config.path
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.conv_width, groups=inner, padding=config.conv_width - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner, bias=True)
        self.A_log = nn.Parameter(torch.empty(inner, states))
        self.D = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self.reset_state_parameters()

    @torch.no_grad()
    def reset_state_parameters(self) -> None:
        """Mamba's start: A = -(1..N) for each channel, D = 1, step sizes log-uniform between 0.001 and 0.1."""
        inner, states = self.A_log.shape
        self.A_log.copy_(torch.arange(1, states + 1, dtype=torch.float32).log().expand(inner, states))
        self.D.fill_(1.0)
        bound = self.dt_proj.in_features**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        low, high = math.log(_STEP_MIN), math.log(_STEP_MAX)
        step = torch.exp(torch.rand_like(self.dt_proj.bias) * (high - low) + low).clamp(min=_STEP_FLOOR)
        self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def scan_direction(self, u: Tensor, *, reverse: bool) -> Tensor:
        """Convolution, selection and scan of one direction: u (B, L, E) from in_proj to y (B, L, E), not yet gated."""
        v = functional.silu(depthwise_conv(u, self.conv1d.weight, self.conv1d.bias, reverse=reverse))
        return selected_scan(
            v, self.x_proj.weight, self.dt_proj.weight, self.dt_proj.bias, self.decay(), self.D, reverse=reverse
        )

    def decay(self) -> Tensor:
        """A (E, N), negative, in fp32."""
        return -torch.exp(self.A_log.float())

    def core(self, uz: Tensor) -> Tensor:
        """Both directions, averaged and gated, in one operator: uz (B, L, 2E) from in_proj to y (B, L, E)."""
        convolution = (self.conv1d.weight.squeeze(1), self.conv1d.get_parameter("bias"))
        projections = (self.x_proj.weight, self.dt_proj.weight, self.dt_proj.bias)
        return mixer_core(uz, *convolution, *projections, self.decay(), self.D)

    def records_gradients(self, uz: Tensor) -> bool:
        """Whether autograd will want to pass through the core."""
        return torch.is_grad_enabled() and (uz.requires_grad or any(p.requires_grad for p in self.parameters()))

    def forward(self, tokens: Tensor, gate_layer: nn.Module | None = None) -> Tensor:
        """Mix normalised tokens (B, L, C) to (B, L, C); the residual is the caller's.

        `gate_layer` maps (B, 2C), the token means of both directions' outputs, to their two weights (B, 2); the path
        `forward_reverse_gate` alone needs it.
        """
        uz = self.in_proj(tokens)
        # Training takes the pieces: each has a fast backward pass of its own, where the operator would run all of them
        # once more.
        if self.path is PathType.FORWARD_REVERSE_MEAN and not self.records_gradients(uz):
            return self.project(self.core(uz))
        u, z = uz.chunk(2, dim=-1)
        gate = functional.silu(z)
        ahead = self.scan_direction(u, reverse=False)
        if self.path is PathType.FORWARD:
            return self.project(ahead * gate)
        back = self.scan_direction(u, reverse=True)
        if self.path is PathType.FORWARD_REVERSE_MEAN:
            return self.project((ahead + back) * (gate * 0.5))
        if gate_layer is None:
            raise InputError(f"path {self.path.value!r} needs the layer's gate; got None: pass gate_layers[i]")
        ahead, back = ahead * gate, back * gate
        # out_proj has no bias, so it commutes with the mean over tokens and with the weighted sum.
        means = self.project(torch.stack([ahead.mean(1), back.mean(1)], dim=1)).flatten(1)  # (B, 2C)
        weights = gate_layer(means)[:, None, None, :]  # (B, 1, 1, 2)
        return self.project(ahead * weights[..., 0] + back * weights[..., 1])

    def project(self, y: Tensor) -> Tensor:
        """out_proj: (B, L, E) to (B, L, C)."""
        projected: Tensor = self.out_proj(y)
        return projected
