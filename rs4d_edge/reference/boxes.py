"""Boxes as (x1, y1, x2, y2) in pixels: centre-size deltas, clipping and overlaps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_LOG_RATIO = abs(math.log(16 / 1000))  # a box grows or shrinks by at most 62.5 times in one step
RPN_STDS = (1.0, 1.0, 1.0, 1.0)
ROI_STDS = (0.1, 0.1, 0.2, 0.2)


def decode_deltas(
    reference: Tensor, deltas: Tensor, size_hw: tuple[int, int], stds: Sequence[float] = RPN_STDS
) -> Tensor:
    """Move and scale `reference` boxes (..., 4) by `deltas` (..., 4) = (dx, dy, dlog w, dlog h), clipped to `size_hw`.

    Leading axes broadcast. Computed in fp32 whatever the input, as half a pixel is lost in bf16.
    """
    reference, deltas = reference.float(), deltas.float()
    low, high = reference[..., :2], reference[..., 2:]
    size, centre = high - low, (low + high) * 0.5
    shift_std = torch.tensor(stds[:2], device=deltas.device)
    scale_std = torch.tensor(stds[2:], device=deltas.device)
    moved = centre + deltas[..., :2] * shift_std * size
    half = size * (deltas[..., 2:] * scale_std).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * 0.5
    return clip_boxes(torch.cat((moved - half, moved + half), dim=-1), size_hw)


def encode_deltas(reference: Tensor, target: Tensor, stds: Sequence[float] = RPN_STDS) -> Tensor:
    """The deltas (n, 4) that move `reference` (n, 4) onto `target` (n, 4); both need positive sizes."""
    size = (reference[:, 2:] - reference[:, :2]).clamp(min=1e-3)
    target_size = (target[:, 2:] - target[:, :2]).clamp(min=1e-3)
    shift = (target[:, :2] + target[:, 2:] - reference[:, :2] - reference[:, 2:]) * 0.5 / size
    return torch.cat((shift, (target_size / size).log()), dim=1) / torch.tensor(stds, device=reference.device)


def clip_boxes(boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Clip boxes (..., 4) to an image of `size_hw` pixels."""
    height, width = size_hw
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)


def has_area(boxes: Tensor) -> Tensor:
    """Which boxes (..., 4) have a positive width and height."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (..., n, 4) with (..., m, 4) -> (..., n, m); 0 where the union is empty."""
    first, second = first.unsqueeze(-2), second.unsqueeze(-3)
    width = (torch.minimum(first[..., 2], second[..., 2]) - torch.maximum(first[..., 0], second[..., 0])).clamp(min=0)
    height = (torch.minimum(first[..., 3], second[..., 3]) - torch.maximum(first[..., 1], second[..., 1])).clamp(min=0)
    overlap = width * height
    union = _area(first) + _area(second) - overlap
    return torch.where(union > 0, overlap / union, torch.zeros_like(overlap))


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
