"""Box head: class and exact place of every proposal."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.reference.boxes import ROI_STDS, decode_deltas, has_area
from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.nms import nms_keep


class BoxDetections(NamedTuple):
    """`boxes` (B, D, 4) xyxy in input pixels, `scores` (B, D) best first, `labels` (B, D) int64; padded with zeros."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class BoxHead(nn.Module):
    """Two shared fully connected layers, then class scores and class-specific deltas."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        classes, width = len(config.classes), config.roi.fc_channels
        inputs = config.neck.channels * config.roi.box_size**2
        layers = (nn.Linear(inputs, width), nn.Linear(width, width))
        self.shared_fcs = nn.ModuleList(layers)
        self.fc_cls = nn.Linear(width, classes + 1)  # the last one is background
        self.fc_reg = nn.Linear(width, 4 * classes)
        for layer in layers:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer, std in ((self.fc_cls, 0.01), (self.fc_reg, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, roi_features: Tensor) -> tuple[Tensor, Tensor]:
        """RoI features (R, C, s, s) -> class logits (R, classes + 1) and deltas (R, 4 classes), both fp32."""
        hidden = roi_features.flatten(1)
        for layer in self.shared_fcs:
            hidden = functional.relu(layer(hidden))
        return self.fc_cls(hidden).float(), self.fc_reg(hidden).float()

    def select(self, proposals: Tensor, logits: Tensor, deltas: Tensor, size_hw: tuple[int, int]) -> BoxDetections:
        """The best `max_detections` of `proposals` (B, P, 4) after class-wise NMS; zero boxes give nothing.

        `logits` (B*P, classes + 1) and `deltas` (B*P, 4 classes) are what `forward` gave for them.
        """
        batch, count = proposals.shape[:2]
        classes, most = len(self.config.classes), self.config.max_detections
        scores = logits.softmax(dim=1)[:, :classes].reshape(batch, count, classes)
        scores = torch.where(has_area(proposals)[..., None], scores, torch.zeros_like(scores))
        boxes = decode_deltas(
            proposals[:, :, None], deltas.reshape(batch, count, classes, 4), size_hw, ROI_STDS
        )  # (B, P, classes, 4)
        keep = nms_keep(
            boxes.transpose(1, 2).reshape(batch * classes, count, 4),
            scores.transpose(1, 2).reshape(batch * classes, count),
            self.config.nms_iou,
            self.config.score_threshold,
            most,
        )
        keep = keep.reshape(batch, classes, count).transpose(1, 2)
        kept = torch.where(keep, scores, torch.zeros_like(scores)).flatten(1)
        best, index = kept.topk(min(most, kept.shape[1]), dim=1)
        found = best > 0
        chosen = boxes.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 4))
        chosen = torch.where(found[..., None], chosen, torch.zeros_like(chosen))
        labels = torch.where(found, index % classes, torch.zeros_like(index))
        missing = most - best.shape[1]
        return BoxDetections(
            functional.pad(chosen, (0, 0, 0, missing)),
            functional.pad(best, (0, missing)),
            functional.pad(labels, (0, missing)),
        )
