"""Which boxes are to learn which object, and which of them take part in a training step."""

from __future__ import annotations

import torch
from torch import Tensor

NEGATIVE, IGNORED = -1, -2


def match(iou: Tensor, positive: float, negative: float, *, keep_best: bool) -> Tensor:
    """Match n boxes with m objects by `iou` (m, n) -> (n,) int64: the object's index, NEGATIVE or IGNORED.

    A box whose best overlap is >= `positive` learns that object; below `negative` it learns background; between them it
    is ignored. With `keep_best`, an object's best boxes are matched with it from `negative` on, so that no object that
    the boxes reach at all is left without one (Ren et al., "Faster R-CNN", 2015).
    """
    objects, boxes = iou.shape
    if objects == 0:
        return torch.full((boxes,), NEGATIVE, dtype=torch.int64, device=iou.device)
    best, index = iou.max(dim=0)
    matched = torch.where(best >= positive, index, torch.full_like(index, IGNORED))
    matched = torch.where(best < negative, torch.full_like(index, NEGATIVE), matched)
    if keep_best:
        top = iou.amax(dim=1, keepdim=True)
        is_best = (iou == top) & (top >= negative)
        owner = (is_best * torch.arange(1, objects + 1, device=iou.device)[:, None]).amax(dim=0)
        matched = torch.where(owner > 0, owner - 1, matched)
    return matched


def sample(
    matched: Tensor, count: int, positive_share: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw at most `count` boxes -> indices of positives and of negatives; negatives fill what positives leave free."""
    positives = (matched >= 0).nonzero()[:, 0]
    negatives = (matched == NEGATIVE).nonzero()[:, 0]
    positives = _draw(positives, int(count * positive_share), generator)
    return positives, _draw(negatives, count - len(positives), generator)


def _draw(candidates: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` of the candidates without repetition; the random numbers are made on the CPU, so that devices agree."""
    if len(candidates) <= count:
        return candidates
    return candidates[torch.randperm(len(candidates), generator=generator)[:count].to(candidates.device)]
