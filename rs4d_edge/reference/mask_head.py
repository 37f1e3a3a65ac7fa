"""Mask head of the `bbox` variant: a small mask per class inside each box.

The edge family's reads the outline as well from the stem's stride-4 map: the pyramid begins at stride 8, where the wing
of an airplane is thinner than a cell. What follows the upsampling is narrow there, so that it costs less than without.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import DetectorConfig


class _Conv(nn.Module):
    """3x3 convolution and ReLU; its name level gives the published keys `convs.i.conv.*`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # it has a bias

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = functional.relu(self.conv(x))
        return result


class MaskHead(nn.Module):
    """3x3 convolutions, a transposed one that doubles the size, and one map per class.

    With `detail_channels`, the stem's map is added after the transposed convolution, and a 3x3 follows.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        width = config.roi.mask_channels
        inputs = (config.neck.channels, *(width,) * config.roi.mask_convs)
        self.convs = nn.ModuleList(_Conv(before, after) for before, after in pairwise(inputs))
        stem, narrow = config.encoder.stem_channels, config.roi.detail_channels
        self.detail = nn.Conv2d(stem[1], narrow, 1) if stem and narrow else None
        self.fine = _Conv(narrow, narrow) if self.detail else None
        width = narrow if self.detail else width
        self.upsample = nn.ConvTranspose2d(inputs[-1], width, 2, stride=2)
        self.conv_logits = nn.Conv2d(width, len(config.classes), 1)
        for layer in (self.upsample, self.conv_logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # these layers have a bias

    def forward(self, roi_features: Tensor, detail: Tensor | None = None) -> Tensor:
        """RoI features (R, C, 14, 14) -> logits (R, classes, 28, 28); `detail` (R, c4, 28, 28) pooled from the stem."""
        x = roi_features
        for layer in self.convs:
            x = layer(x)
        x = self.upsample(x)
        if self.detail is not None and self.fine is not None:
            if detail is None:
                raise InputError("this mask head reads the stem's stride-4 map; got detail=None: pass it pooled")
            x = self.fine(functional.relu(x + self.detail(detail)))
        logits: Tensor = self.conv_logits(functional.relu(x))
        return logits

    def of_class(self, roi_features: Tensor, labels: Tensor, detail: Tensor | None = None) -> Tensor:
        """Logits (R, 28, 28), fp32, of each RoI's own class, `labels` (R,) int64; the rest as in `forward`."""
        logits = self(roi_features, detail)
        index = labels[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        own: Tensor = logits.gather(1, index)[:, 0].float()
        return own
