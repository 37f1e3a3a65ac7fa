"""RoI stage: pooling from the pyramid, the box head on all proposals, the mask head on what is detected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from rs4d_edge.reference.box_head import BoxDetections, BoxHead
from rs4d_edge.reference.config import DetectorConfig, HeadType
from rs4d_edge.reference.mask_head import MaskHead
from rs4d_edge.reference.prompt_head import PromptMaskHead
from rs4d_edge.reference.roi_align import roi_align, roi_align_op


class MaskContext(NamedTuple):
    """What the mask head reads besides the pyramid's levels.

    `embedding` (B, C, h, w) of the image, its `positions` (1, h*w, C) for the prompt head, and `stem`
    (B, c4, H/4, W/4), the stride-4 map, for a head with `detail_channels`.
    """

    embedding: Tensor
    positions: Tensor | None = None
    stem: Tensor | None = None


class RoIHead(nn.Module):
    """Holds `bbox_head` and `mask_head` (Mask R-CNN's or the SAM-prompt one) under their published names."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.bbox_head = BoxHead(config)
        self.mask_head = PromptMaskHead(config) if config.head is HeadType.PROMPT else MaskHead(config)

    @property
    def detail_grid(self) -> tuple[int, float]:
        """Cells a side that the mask head reads of the stem's stride-4 map, and that map's scale."""
        return 2 * self.config.roi.mask_size, 1.0 / 4

    def levels_of(self, boxes: Tensor) -> Tensor:
        """The pyramid level (R,) int64 that each of `boxes` (R, 4) is pooled from, by the square root of its area."""
        size = boxes[:, 2:] - boxes[:, :2]
        side = (size[:, 0] * size[:, 1]).sqrt() / self.config.roi.finest_scale
        return (side + 1e-6).log2().floor().clamp(0, len(self.config.roi.strides) - 1).long()

    def pool(self, levels: Sequence[Tensor], boxes: Tensor, size: int) -> Tensor:
        """Pool `boxes` (B, N, 4) in input pixels -> (B*N, C, size, size) with fixed shapes, for inference.

        Every level pools all boxes, those of other levels shrunk to nothing, where RoIAlign gives 0 at no cost.
        """
        rois, batch_index = self._flat(boxes)
        target = self.levels_of(rois)[:, None]
        parts = [
            roi_align_op(
                feature, torch.where(target == level, rois, torch.zeros_like(rois)), batch_index, size, 1.0 / stride
            )
            for level, (feature, stride) in enumerate(zip(levels, self.config.roi.strides, strict=False))
        ]
        return cast(Tensor, sum(parts[1:], start=parts[0]))

    def pool_by_level(self, levels: Sequence[Tensor], rois: Tensor, batch_index: Tensor, size: int) -> Tensor:
        """Pool `rois` (R, 4) of images `batch_index` (R,) -> (R, C, size, size), differentiable, for training."""
        target = self.levels_of(rois)
        order, parts = [], []
        for level, (feature, stride) in enumerate(zip(levels, self.config.roi.strides, strict=False)):
            chosen = (target == level).nonzero()[:, 0]
            order.append(chosen)
            parts.append(roi_align(feature, rois[chosen], batch_index[chosen], size, 1.0 / stride))
        return torch.cat(parts).index_select(0, torch.cat(order).argsort())

    def detect(self, levels: Sequence[Tensor], proposals: Tensor, size_hw: tuple[int, int]) -> BoxDetections:
        """Classify and place `proposals` (B, P, 4) on an input of `size_hw` pixels."""
        logits, deltas = self.bbox_head(self.pool(levels, proposals, self.config.roi.box_size))
        return self.bbox_head.select(proposals, logits, deltas, size_hw)

    def masks(
        self,
        levels: Sequence[Tensor],
        found: BoxDetections,
        embedding: Tensor,
        positions: Tensor | None,
        stem: Tensor | None = None,
    ) -> Tensor:
        """Mask probabilities of detections, 0 for padded rows.

        (B, D, 28, 28) over each box, or with the prompt head (B, D, 4h, 4w) over the input, made from the image
        `embedding` (B, C, h, w) and its `positions` (1, h*w, C). `stem` (B, c4, H/4, W/4) is read where the
        configuration has `detail_channels`.
        """
        batch, count = found.scores.shape
        pooled = self.pool(levels, found.boxes, self.config.roi.mask_size)
        if isinstance(self.mask_head, PromptMaskHead):
            _, index = self._flat(found.boxes)
            logits = self.mask_head(pooled, embedding, index, positions).float()
        else:
            rois, index = self._flat(found.boxes)
            detail = None if stem is None else roi_align_op(stem, rois, index, *self.detail_grid)
            logits = self.mask_head.of_class(pooled, found.labels.reshape(-1), detail)
        masks = logits.sigmoid().reshape(batch, count, *logits.shape[1:])
        return torch.where(found.scores[:, :, None, None] > 0, masks, 0.0)

    @staticmethod
    def _flat(boxes: Tensor) -> tuple[Tensor, Tensor]:
        """`boxes` (B, N, 4) as RoIs (B*N, 4) and their images (B*N,) int64."""
        batch, count = boxes.shape[:2]
        index = torch.arange(batch, device=boxes.device)[:, None].expand(batch, count).reshape(-1)
        return boxes.reshape(-1, 4), index
