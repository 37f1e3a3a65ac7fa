"""Which detections of an export are which of the reference's, and how far apart they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rs4d_edge.detections import Detections
from rs4d_edge.masks import MaskCrop
from rs4d_edge.tolerances import Tolerances

Floats = npt.NDArray[np.float32]


class Match(NamedTuple):
    """One pair: its indices in both lists and how far apart it is (box in pixels of the frame)."""

    reference: int
    exported: int
    box_px: float
    score: float
    mask_iou: float
    mask_px: int


class FrameComparison(NamedTuple):
    """All of one frame. `lonely` are the scores of detections without partner on either side."""

    reference: int
    exported: int
    matches: tuple[Match, ...]
    lonely: tuple[float, ...]


def compare_detections(reference: Detections, exported: Detections, match_iou: float) -> FrameComparison:
    """Pair off detections of the same class, best first, each with the most overlapping one that is left."""
    overlaps = pairwise_iou(reference.boxes_xyxy, exported.boxes_xyxy)
    overlaps[reference.labels[:, None] != exported.labels[None, :]] = 0.0
    matches = []
    for index in np.argsort(-reference.scores, kind="stable").tolist():
        partner = int(np.argmax(overlaps[index])) if overlaps.shape[1] else -1
        if partner < 0 or overlaps[index, partner] < match_iou:
            continue
        overlaps[:, partner] = 0.0
        matches.append(_match(reference, exported, index, partner))
    paired = {match.reference for match in matches}, {match.exported for match in matches}
    lonely = [
        score
        for side, taken in zip((reference, exported), paired, strict=True)
        for index, score in enumerate(side.scores.tolist())
        if index not in taken
    ]
    return FrameComparison(len(reference), len(exported), tuple(matches), tuple(lonely))


def pairwise_iou(first: Floats, second: Floats) -> Floats:
    """Overlap of boxes (n, 4) with (m, 4), xyxy -> (n, m): intersection over union, 0 where both are empty."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    overlap = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - overlap
    iou: Floats = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return iou


def mask_difference(first: MaskCrop, second: MaskCrop) -> tuple[float, int]:
    """(intersection over union, differing pixels) of two masks of the same frame; two empty masks are equal."""
    top, left = min(first.top, second.top), min(first.left, second.left)
    bottom = max(crop.top + crop.bits.shape[0] for crop in (first, second))
    right = max(crop.left + crop.bits.shape[1] for crop in (first, second))
    planes = np.zeros((2, bottom - top, right - left), dtype=np.bool_)
    for plane, crop in zip(planes, (first, second), strict=True):
        rows, columns = crop.bits.shape
        plane[crop.top - top : crop.top - top + rows, crop.left - left : crop.left - left + columns] = crop.bits
    union, common = int((planes[0] | planes[1]).sum()), int((planes[0] & planes[1]).sum())
    return (common / union if union else 1.0), union - common


def exceeds(match: Match, limits: Tolerances, pixels_per_input_pixel: float) -> bool:
    """Whether a pair is further apart than `limits` allow, on a frame so many times finer than the network's input."""
    masks_differ = match.mask_iou < limits.mask_iou and match.mask_px > limits.mask_px * pixels_per_input_pixel**2
    return match.box_px > limits.box_px * pixels_per_input_pixel or match.score > limits.score or masks_differ


def _match(reference: Detections, exported: Detections, index: int, partner: int) -> Match:
    box_px = float(np.abs(reference.boxes_xyxy[index] - exported.boxes_xyxy[partner]).max())
    score = abs(float(reference.scores[index]) - float(exported.scores[partner]))
    mask_iou, mask_px = mask_difference(reference.mask_crop(index), exported.mask_crop(partner))
    return Match(index, partner, box_px, score, mask_iou, mask_px)
