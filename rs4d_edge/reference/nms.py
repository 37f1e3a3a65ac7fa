"""Greedy non-maximum suppression with a fixed output shape: `torch.ops.rs4d.nms_keep`.

The op answers with a mask over its input instead of a list of survivors, so that nothing after it has a shape that
depends on the data, and torch.export keeps it as one node. Groups (an image's level, or an image's class) are
independent of each other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rs4d_edge.reference.boxes import pairwise_iou

_BLOCK = 96  # boxes decided at once: the overlaps of a block with 1000 boxes stay inside the second-level cache

Floats = npt.NDArray[np.float32]


@torch.library.custom_op("rs4d::nms_keep", mutates_args=())
def nms_keep(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_keep: int) -> Tensor:
    """Which of `boxes` (G, N, 4) with `scores` (G, N) survive in each group -> bool (G, N).

    A box takes part if its score > `score_threshold`, and is suppressed by a better surviving one with IoU strictly
    greater than `iou_threshold`; equal scores rank by index. At most `max_keep` survive in a group.
    """
    if boxes.is_cuda:
        return _keep_in_parallel(boxes.float(), scores.float(), iou_threshold, score_threshold, max_keep)
    keep = np.zeros(scores.shape, dtype=bool)
    all_boxes, all_scores = boxes.detach().float().numpy(), scores.detach().float().numpy()
    for group in range(keep.shape[0]):
        candidates = np.flatnonzero(all_scores[group] > score_threshold)
        order = candidates[np.argsort(-all_scores[group][candidates], kind="stable")]
        keep[group, order[_greedy(all_boxes[group][order], iou_threshold)[:max_keep]]] = True
    return torch.from_numpy(keep)


@nms_keep.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_keep: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def nms_keep_reference(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_keep: int
) -> Tensor:
    """The definition of `nms_keep`, box by box: slow, for tests."""
    keep = torch.zeros(scores.shape, dtype=torch.bool)
    for group in range(scores.shape[0]):
        survivors: list[int] = []
        for index in torch.argsort(scores[group], descending=True, stable=True).tolist():
            if scores[group, index] <= score_threshold or len(survivors) == max_keep:
                break
            better = boxes[group, survivors]
            if not bool((pairwise_iou(boxes[group, index][None], better) > iou_threshold).any()):
                survivors.append(index)
        keep[group, survivors] = True
    return keep


def _greedy(boxes: Floats, iou_threshold: float) -> npt.NDArray[np.intp]:
    """Indices of the survivors among `boxes` (n, 4), best first."""
    survivors: list[npt.NDArray[np.intp]] = []
    remaining = np.arange(len(boxes))
    while remaining.size:
        over = _overlaps(boxes[remaining[:_BLOCK]], boxes[remaining], iou_threshold)
        head = over.shape[0]
        kept = _settle(np.triu(over[:, :head], 1))
        survivors.append(remaining[:head][kept])
        remaining = remaining[head:][~over[kept, head:].any(axis=0)]
    return np.concatenate(survivors) if survivors else remaining


def _settle(over: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Solve keep[j] = no kept i < j with over[i, j]; each pass settles at least one more box of every chain."""
    kept = np.ones(len(over), dtype=bool)
    while True:
        updated: npt.NDArray[np.bool_] = np.logical_not(over[kept].any(axis=0))
        if np.array_equal(updated, kept):
            return kept
        kept = updated


def _overlaps(first: Floats, second: Floats, iou_threshold: float) -> npt.NDArray[np.bool_]:
    x1, y1, x2, y2 = (np.ascontiguousarray(side) for side in second.T)
    a1, b1, a2, b2 = first.T[:, :, None]
    width = np.minimum(a2, x2) - np.maximum(a1, x1)
    height = np.minimum(b2, y2) - np.maximum(b1, y1)
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    union = (a2 - a1) * (b2 - b1) + (x2 - x1) * (y2 - y1) - overlap
    with np.errstate(divide="ignore", invalid="ignore"):
        result: npt.NDArray[np.bool_] = overlap / union > np.float32(iou_threshold)
    return result


def _keep_in_parallel(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, max_keep: int
) -> Tensor:
    """All groups at once, by the iteration of `_settle`: for devices with memory bandwidth to spare."""
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    candidate = scores.gather(1, order) > score_threshold
    over = torch.triu(pairwise_iou(boxes, boxes) > iou_threshold, diagonal=1)
    kept = candidate
    while True:
        updated = candidate & ~(over & kept[:, :, None]).any(dim=1)
        if torch.equal(updated, kept):
            break
        kept = updated
    kept = kept & (kept.cumsum(dim=1) <= max_keep)
    return torch.zeros_like(kept).scatter(1, order, kept)
