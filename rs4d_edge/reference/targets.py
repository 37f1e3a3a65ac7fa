"""What a detector is to find: the objects of an image, and the regions that learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rs4d_edge.errors import InputError


class Target(NamedTuple):
    """The n >= 0 objects of one image, in network-input pixels.

    `boxes` (n, 4) float xyxy, `labels` (n,) int64 from 0, `masks` (n, H, W) bool or uint8 0/1, each inside its box.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor


class Regions(NamedTuple):
    """Sampled RoIs of a batch: `boxes` (R, 4), their images `batch_index` (R,), and what they learn.

    `labels` (R,), background = number of classes; `matched` (R,) index of the object in its image, < 0 for background.
    """

    boxes: Tensor
    batch_index: Tensor
    labels: Tensor
    matched: Tensor


def flat_index(objects: Regions, targets: Sequence[Target]) -> Tensor:
    """Index (R,) of each region's object among the objects of all images in a row."""
    counts = torch.tensor([0] + [len(target.boxes) for target in targets], device=objects.matched.device)
    return counts.cumsum(0)[objects.batch_index] + objects.matched


def some(regions: Regions, most: int | None, generator: torch.Generator | None) -> Regions:
    """A random choice of `most` regions in their order, or all if there are no more."""
    count = len(regions.labels)
    if most is None or count <= most:
        return regions
    chosen = torch.randperm(count, generator=generator)[:most].sort().values.to(regions.labels.device)
    return Regions(*(part[chosen] for part in regions))


def check_target(target: Target, image: int, classes: int) -> None:
    """Raise InputError where parts of the target of image number `image` contradict each other or the classes."""
    count = len(target.boxes)
    if target.boxes.shape != (count, 4) or target.labels.shape != (count,) or target.masks.shape[0] != count:
        raise InputError(
            f"target of image {image}: boxes {tuple(target.boxes.shape)}, labels {tuple(target.labels.shape)} and "
            f"masks {tuple(target.masks.shape)} must describe the same n objects: (n, 4), (n,) and (n, H, W)"
        )
    if count and not 0 <= int(target.labels.min()) <= int(target.labels.max()) < classes:
        raise InputError(f"target of image {image}: labels must lie in 0..{classes - 1}, got {target.labels.tolist()}")
