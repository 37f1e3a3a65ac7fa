"""Region proposal network: where objects may be, from every pyramid level, with fixed shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.reference.anchors import level_anchors
from rs4d_edge.reference.boxes import decode_deltas, has_area
from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.nms import nms_keep


class RPNMaps(NamedTuple):
    """Per level: `cls` (B, A, h, w) objectness logits, `reg` (B, 4A, h, w) deltas, an anchor's four side by side."""

    cls: tuple[Tensor, ...]
    reg: tuple[Tensor, ...]


class Proposals(NamedTuple):
    """`boxes` (B, P, 4) xyxy in input pixels and `scores` (B, P), best first; unused rows are zero boxes of score 0."""

    boxes: Tensor
    scores: Tensor


class RPNHead(nn.Module):
    """One 3x3 convolution and two 1x1 ones, shared by all levels."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config.proposals
        anchors = len(self.config.scales) * len(self.config.ratios)
        self.rpn_conv = nn.Conv2d(config.neck.channels, self.config.channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(self.config.channels, anchors, 1)
        self.rpn_reg = nn.Conv2d(self.config.channels, 4 * anchors, 1)
        for layer in (self.rpn_conv, self.rpn_cls, self.rpn_reg):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # these layers have a bias

    def forward(self, levels: Sequence[Tensor]) -> RPNMaps:
        """Levels (B, C, h, w), finest first."""
        hidden = [functional.relu(self.rpn_conv(level)) for level in levels]
        return RPNMaps(tuple(self.rpn_cls(x) for x in hidden), tuple(self.rpn_reg(x) for x in hidden))

    def anchors(self, maps: RPNMaps) -> list[Tensor]:
        """Anchors (h*w*A, 4) of each level of `maps`."""
        return [
            level_anchors((cls.shape[-2], cls.shape[-1]), stride, self.config, cls.device)
            for cls, stride in zip(maps.cls, self.config.strides, strict=True)
        ]

    def propose(self, maps: RPNMaps, size_hw: tuple[int, int]) -> Proposals:
        """The best `proposals` boxes of an input of `size_hw` pixels, after NMS within each level."""
        levels = [
            self._candidates(cls, reg, anchors, size_hw)
            for cls, reg, anchors in zip(maps.cls, maps.reg, self.anchors(maps), strict=True)
        ]
        longest = max(scores.shape[1] for _, scores in levels)
        boxes = torch.stack([functional.pad(b, (0, 0, 0, longest - b.shape[1])) for b, _ in levels], dim=1)
        scores = torch.stack([functional.pad(s, (0, longest - s.shape[1]), value=-1.0) for _, s in levels], dim=1)
        keep = nms_keep(boxes.flatten(0, 1), scores.flatten(0, 1), self.config.nms_iou, 0.0, self.config.proposals)
        kept = torch.where(keep.reshape(scores.shape), scores, torch.zeros_like(scores)).flatten(1)
        best, index = kept.topk(min(self.config.proposals, kept.shape[1]), dim=1)
        chosen = boxes.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 4))
        chosen = torch.where(best[..., None] > 0, chosen, torch.zeros_like(chosen))
        missing = self.config.proposals - best.shape[1]
        return Proposals(functional.pad(chosen, (0, 0, 0, missing)), functional.pad(best, (0, missing)))

    def _candidates(self, cls: Tensor, reg: Tensor, anchors: Tensor, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The best `pre_nms` boxes (B, k, 4) of one level with scores (B, k); -1 for boxes without area."""
        logits, index = flat_logits(cls).topk(min(self.config.pre_nms, anchors.shape[0]), dim=1)
        deltas = flat_deltas(reg).gather(1, index[..., None].expand(-1, -1, 4))
        boxes = decode_deltas(anchors[index], deltas, size_hw)
        return boxes, torch.where(has_area(boxes), logits.sigmoid(), torch.full_like(logits, -1.0))


def flat_logits(cls: Tensor) -> Tensor:
    """Objectness (B, A, h, w) in the order of the anchors: (B, h*w*A), fp32."""
    return cls.permute(0, 2, 3, 1).flatten(1).float()


def flat_deltas(reg: Tensor) -> Tensor:
    """Deltas (B, 4A, h, w) in the order of the anchors: (B, h*w*A, 4), fp32."""
    return reg.permute(0, 2, 3, 1).reshape(reg.shape[0], -1, 4).float()
