"""From pixels to tokens: the published 16x16 patch embedding, and the convolutional stem of the edge family.

The stem costs a few per cent of the encoder and gives what a 16x16 patch cannot: maps at strides 4 and 8 on which
small vehicles and ships keep more than one cell, without transposed convolutions in the neck.
"""

from __future__ import annotations

from torch import Tensor, nn

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import EncoderConfig

_PATCH = 16  # pixels per token on both ways into the encoder


class ConvNorm(nn.Sequential):
    """3x3 (or 1x1) convolution, batch norm and, unless `relu` is False, ReLU; foldable into one convolution."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1, relu: bool = True) -> None:
        conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), *([nn.ReLU()] if relu else []))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvNorm(channels, channels), ConvNorm(channels, channels, relu=False))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """ReLU(x + body(x)); (B, c, h, w) to the same."""
        result: Tensor = self.activation(x + self.body(x))
        return result


class ConvStem(nn.Module):
    """Convolutions of stride 2 with residual blocks between, from the image to stride 8."""

    def __init__(self, channels: tuple[int, int, int], blocks: tuple[int, int]) -> None:
        super().__init__()
        at_2, at_4, at_8 = channels
        self.stride4 = nn.Sequential(
            ConvNorm(3, at_2, stride=2),
            ConvNorm(at_2, at_4, stride=2),
            *(ResidualBlock(at_4) for _ in range(blocks[0])),
        )
        self.stride8 = nn.Sequential(ConvNorm(at_4, at_8, stride=2), *(ResidualBlock(at_8) for _ in range(blocks[1])))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, 3, H, W) to maps at stride 4 (B, c4, H/4, W/4) and stride 8 (B, c8, H/8, W/8)."""
        at_4 = self.stride4(image)
        return at_4, self.stride8(at_4)


class PatchEmbed(nn.Module):
    """The projection to tokens at stride 16 from the image.

    Published: a 16x16 convolution of stride 16 on the image, without bias. After a stem: a 3x3 of stride 2, with bias.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.projection: nn.Conv2d
        if config.stem_channels is None:
            patch = config.patch_size
            self.projection = nn.Conv2d(3, config.channels, patch, stride=patch, bias=False)
        else:
            if config.patch_size != _PATCH:
                raise InputError(f"patch_size {config.patch_size}: the stem's tokens lie at stride {_PATCH}; use that")
            self.projection = nn.Conv2d(config.stem_channels[2], config.channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Image or stem map (B, c, H, W) to tokens (B, C, h, w)."""
        tokens: Tensor = self.projection(x)
        return tokens
