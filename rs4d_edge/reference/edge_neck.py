"""The edge family's neck: a small top-down pyramid at strides 8, 16, 32 and 64.

Fine levels come from the convolutional stem (a convolution at stride 8 instead of the published transposed convolutions
at stride 4, whose one 3x3 of 256 channels costs more than a whole edge encoder); context flows down from the encoder's
last map. Batch norm only, so that every layer folds into its convolution.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.encoder import EncoderMaps
from rs4d_edge.reference.stem import ConvNorm

STRIDES = (8, 16, 32, 64)


def upsample_to(x: Tensor, like: Tensor) -> Tensor:
    """Nearest-neighbour upsampling of (B, C, h, w) to the height and width of `like` (twice, or one cell less)."""
    return functional.interpolate(x, size=(like.shape[2], like.shape[3]), mode="nearest")


class EdgeNeck(nn.Module):
    """`EncoderMaps` with a stem to four levels (B, C, h, w) at strides 8, 16, 32, 64."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        stem = config.encoder.stem_channels
        if stem is None or config.proposals.strides != STRIDES:
            raise InputError(
                f"the edge neck needs stem_channels and proposals.strides {STRIDES}; "
                f"got {stem} and {config.proposals.strides}"
            )
        width = config.neck.channels
        self.lateral4 = ConvNorm(stem[1], width, stride=2, relu=False)  # stride-4 detail, brought to stride 8
        self.lateral8 = ConvNorm(stem[2], width, size=1, relu=False)
        self.lateral16 = ConvNorm(config.encoder.channels, width, size=1, relu=False)
        self.lateral32 = ConvNorm(config.encoder.channels, width, stride=2)
        self.outputs = nn.ModuleList(ConvNorm(width, width) for _ in STRIDES[:3])

    def forward(self, maps: EncoderMaps) -> tuple[Tensor, ...]:
        """Merge the stem's maps and the encoder's last one; levels finest first."""
        context = maps.layers[-1].permute(0, 3, 1, 2)
        at_32 = self.lateral32(context)
        at_16 = self.lateral16(context)
        at_16 = at_16 + upsample_to(at_32, at_16)
        at_8 = self.lateral8(maps.stem[1]) + self.lateral4(maps.stem[0])
        at_8 = at_8 + upsample_to(at_16, at_8)
        levels = tuple(output(x) for output, x in zip(self.outputs, (at_8, at_16, at_32), strict=True))
        return (*levels, levels[-1][:, :, ::2, ::2])
