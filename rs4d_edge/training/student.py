"""The student: an encoder, what lets it speak in the teacher's terms while it learns, and the loss between the two.

Where the widths agree (the paper's case: 256 and 256), the encoder's last map is compared as it is, so that the student
may replace the teacher under a decoder. Where they differ (the edge family), a 1x1 convolution is trained along and
thrown away: any fixed choice of channels would demand more than a narrow encoder can hold, while a linear map lets it
spend its channels on those directions of the embedding that vary most.

Where the grids differ, the teacher's map is resampled to the student's, bilinearly, each cell weighing what it covers
(antialias). Both cover the same square picture, so cell centres correspond. Resampling the teacher and not the student
keeps the loss at one value per token, and a student with fewer tokens is not asked for detail that it cannot place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.training.distill_settings import LossWeights

Maps = tuple[Tensor, ...]


class Student(nn.Module):
    """An encoder with its projections to the teacher's widths.

    `teacher_channels` is the width of the embedding, `layers` the student's layers that learn from maps in between,
    each of width `layer_channels` in the teacher.
    """

    def __init__(self, encoder: RSMamba, teacher_channels: int, layers: Sequence[int], layer_channels: int) -> None:
        super().__init__()
        width = encoder.config.channels
        self.layers = tuple(layers)
        self.encoder = encoder
        self.projection: nn.Module = nn.Identity()
        if width != teacher_channels:
            self.projection = nn.Conv2d(width, teacher_channels, 1)
        # A residual stream grows with depth: normalised, as the teacher's layers are, it suits a plain projection.
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=False) for _ in layers)
        self.layer_projections = nn.ModuleList(nn.Conv2d(width, layer_channels, 1) for _ in layers)

    def forward(self, image: Tensor) -> Maps:
        """Normalised images (B, 3, S, S) to maps (B, c, S/16, S/16) in the teacher's widths, the embedding first."""
        stages = self.encoder(image).layers
        embedding: Tensor = self.projection(stages[-1].permute(0, 3, 1, 2))
        between = (
            project(norm(stages[i]).permute(0, 3, 1, 2))
            for i, norm, project in zip(self.layers, self.norms, self.layer_projections, strict=True)
        )
        return (embedding, *between)


def resample(maps: Maps, grid_hw: tuple[int, int]) -> Maps:
    """The teacher's maps (B, c, h, w) on the student's grid, fp32; maps that already lie on it stay as they are."""
    return tuple(
        each.float()
        if tuple(each.shape[2:]) == grid_hw
        else functional.interpolate(each.float(), size=grid_hw, mode="bilinear", align_corners=False, antialias=True)
        for each in maps
    )


def mean_over_picture(values: Tensor, cells: Tensor) -> Tensor:
    """(B, c, h, w) averaged over channels and the cells (B, h, w) that hold picture: (B,).

    Padding is left out: what a teacher says of it holds nothing to learn. Per image first, so that a mean over images
    does not depend on how a batch is cut.
    """
    inside = cells[:, None].to(values.dtype)
    return (values * inside).sum((1, 2, 3)) / (inside.sum((1, 2, 3)) * values.shape[1]).clamp(min=1)


def embedding_l1(student: Tensor, teacher: Tensor, cells: Tensor) -> Tensor:
    """Mean absolute difference of two embeddings, per image: (B,)."""
    return mean_over_picture((student.float() - teacher).abs(), cells)


def embedding_cosine(student: Tensor, teacher: Tensor, cells: Tensor) -> Tensor:
    """1 - cosine of the angle between the two embeddings of a cell, averaged per image: (B,)."""
    distance = 1 - functional.cosine_similarity(student.float(), teacher, dim=1)
    return mean_over_picture(distance[:, None], cells)


def constant_l1(teacher: Tensor, cells: Tensor) -> Tensor:
    """L1 of the best guess that knows a picture's mean embedding but not what lies where, per image: (B,)."""
    inside = cells[:, None].to(teacher.dtype)
    mean = (teacher * inside).sum((2, 3), keepdim=True) / inside.sum((2, 3), keepdim=True).clamp(min=1)
    return mean_over_picture((teacher - mean).abs(), cells)


def distillation_losses(student: Maps, teacher: Maps, cells: Tensor, weights: LossWeights) -> dict[str, Tensor]:
    """Weighted loss parts, scalars in fp32 to be added up: `l1`, `cosine`, `layers`, those whose weight is not 0.

    `student` and `teacher` are maps on the same grid, `cells` (B, h, w) says which of them hold picture.
    """
    parts: dict[str, Tensor] = {}
    if weights.l1:
        parts["l1"] = weights.l1 * embedding_l1(student[0], teacher[0], cells).mean()
    if weights.cosine:
        parts["cosine"] = weights.cosine * embedding_cosine(student[0], teacher[0], cells).mean()
    if weights.layers:
        pairs = zip(student[1:], teacher[1:], strict=True)
        losses = [embedding_l1(ours, theirs, cells).mean() for ours, theirs in pairs]
        parts["layers"] = weights.layers * torch.stack(losses).mean()
    return parts
