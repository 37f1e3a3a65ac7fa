"""Mask head of the `bbox` variant: a small mask per class inside each box."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

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
    """3x3 convolutions, a transposed one that doubles the size, and one map per class."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        width = config.roi.mask_channels
        inputs = (config.neck.channels, *(width,) * config.roi.mask_convs)
        self.convs = nn.ModuleList(_Conv(before, after) for before, after in pairwise(inputs))
        self.upsample = nn.ConvTranspose2d(inputs[-1], width, 2, stride=2)
        self.conv_logits = nn.Conv2d(width, len(config.classes), 1)
        for layer in (self.upsample, self.conv_logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # these layers have a bias

    def forward(self, roi_features: Tensor) -> Tensor:
        """RoI features (R, C, 14, 14) -> logits (R, classes, 28, 28)."""
        x = roi_features
        for layer in self.convs:
            x = layer(x)
        logits: Tensor = self.conv_logits(functional.relu(self.upsample(x)))
        return logits

    def of_class(self, roi_features: Tensor, labels: Tensor) -> Tensor:
        """Logits (R, 28, 28), fp32, of each RoI's own class, `labels` (R,) int64."""
        logits = self(roi_features)
        index = labels[:, None, None, None].expand(-1, 1, *logits.shape[2:])
        own: Tensor = logits.gather(1, index)[:, 0].float()
        return own
