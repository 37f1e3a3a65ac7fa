"""The published neck: feature aggregator and simple feature pyramid, and the choice between it and the edge neck.

Source: the RS4D paper's description and RSPrompter's (Chen et al., arXiv 2306.16269); the pyramid is ViTDet's "simple
feature pyramid" (Li et al., arXiv 2203.16527): every level comes from the one stride-16 map, nothing flows top-down.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import DetectorConfig, NeckType
from rs4d_edge.reference.edge_neck import EdgeNeck
from rs4d_edge.reference.encoder import EncoderMaps

_LEVELS = 5  # strides 4, 8, 16, 32, 64
_CHANNEL_NORM_EPS = 1e-5


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, h, w) (the published `LN2d`)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=_CHANNEL_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel over its channels with the biased variance."""
        # As sums over the channels' axis: a LayerNorm would have the maps brought to channels last and back.
        centred = x - x.mean(1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(1, keepdim=True) + self.eps)
        return centred * scale * self.weight[:, None, None] + self.bias[:, None, None]


def _conv_norm_relu(inputs: int, outputs: int, size: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.BatchNorm2d(outputs), nn.ReLU()]


class FeatureAggregator(nn.Module):
    """Fuse encoder maps (B, h, w, C) of several depths into one map (B, out, h, w) by a running residual sum."""

    def __init__(self, channels: int, hidden: int, outputs: int, count: int) -> None:
        super().__init__()
        self.downconvs = nn.ModuleList(
            nn.Sequential(*_conv_norm_relu(channels, hidden, 1), *_conv_norm_relu(hidden, hidden, 3))
            for _ in range(count)
        )
        self.hidden_convs = nn.ModuleList(nn.Sequential(*_conv_norm_relu(hidden, hidden, 3)) for _ in range(count))
        self.fusion_conv = nn.Sequential(
            *_conv_norm_relu(hidden, outputs, 1),
            *_conv_norm_relu(outputs, outputs, 3),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Add one map at a time, shallow first: h = x + f_k, x = h + hidden_k(h)."""
        x: Tensor | None = None
        for tokens, down, hidden in zip(maps, self.downconvs, self.hidden_convs, strict=True):
            feature = self._narrowed(tokens, down)
            h = feature if x is None else x + feature
            x = h + hidden(h)
        fused: Tensor = self.fusion_conv(x)
        return fused

    @staticmethod
    def _narrowed(tokens: Tensor, down: nn.Module) -> Tensor:
        """One map through its `downconvs`: (B, h, w, C) to (B, hidden, h, w).

        Its first convolution is 1x1, a product over each token's channels. Outside of training it is computed as one,
        with the norm folded into it, so that the map is brought to channels first when it is narrow, not when it is
        wide: 1/8 of the memory to move for each layer that the neck reads.
        """
        conv, norm, *rest = down.children()
        # A convolution of another class computes otherwise: one that learns with rounding has to be called.
        if norm.training or type(conv) is not nn.Conv2d or not isinstance(norm, nn.BatchNorm2d):
            return cast(Tensor, down(tokens.permute(0, 3, 1, 2)))
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        scale = norm.weight * torch.rsqrt(variance + norm.eps)
        bias = (conv.get_parameter("bias") - mean) * scale + norm.bias
        narrow = functional.linear(tokens, conv.weight.flatten(1) * scale[:, None], bias)
        x = narrow.permute(0, 3, 1, 2)
        for layer in rest:
            x = layer(x)
        return x


class _ConvChannelNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
        self.norm_layer = ChannelNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm_layer(self.conv(x))
        return normed


class SimpleFeaturePyramid(nn.Module):
    """One stride-16 map (B, C, h, w) to levels at strides 4, 8, 16, 32 and 64, `channels` each."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        half, quarter = inputs // 2, inputs // 4
        self.fpn1 = nn.Sequential(
            nn.ConvTranspose2d(inputs, half, 2, stride=2),
            ChannelNorm(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2),
        )
        self.fpn2 = nn.Sequential(nn.ConvTranspose2d(inputs, half, 2, stride=2))
        self.fpn3 = nn.Identity()
        self.fpn4 = nn.MaxPool2d(2)
        widths = (quarter, half, inputs, inputs)
        self.lateral_convs = nn.ModuleList(_ConvChannelNorm(width, channels, 1) for width in widths)
        self.fpn_convs = nn.ModuleList(_ConvChannelNorm(channels, channels, 3) for _ in widths)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Rescale the one map to each stride; the coarsest level is every second pixel of the one before."""
        scaled = (self.fpn1(x), self.fpn2(x), self.fpn3(x), self.fpn4(x))
        levels = [
            output(lateral(level))
            for level, lateral, output in zip(scaled, self.lateral_convs, self.fpn_convs, strict=True)
        ]
        return (*levels, levels[-1][:, :, ::2, ::2])


class SimpleNeck(nn.Module):
    """The published neck. `layers` of the configuration choose the encoder maps, whose number fixes the keys."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        if len(config.proposals.strides) != _LEVELS:
            raise InputError(f"the simple neck makes {_LEVELS} levels; proposals.strides is {config.proposals.strides}")
        neck = config.neck
        self.layers = neck.layers
        self.feature_aggregator = FeatureAggregator(
            config.encoder.channels, neck.hidden_channels, neck.channels, len(neck.layers)
        )
        self.feature_spliter = SimpleFeaturePyramid(neck.channels, neck.channels)  # the published spelling

    def forward(self, maps: EncoderMaps) -> tuple[Tensor, ...]:
        """Fuse the chosen maps, then make the five levels (B, C, h, w), finest first."""
        fused = self.feature_aggregator(tuple(maps.layers[i] for i in self.layers))
        levels: tuple[Tensor, ...] = self.feature_spliter(fused)
        return levels


def build_neck(config: DetectorConfig) -> SimpleNeck | EdgeNeck:
    """The neck that the configuration asks for; maps `EncoderMaps` to one (B, C, h, w) level per proposal stride."""
    return EdgeNeck(config) if config.neck.type is NeckType.EDGE else SimpleNeck(config)
