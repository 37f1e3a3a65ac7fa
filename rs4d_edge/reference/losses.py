"""Training losses of the proposal network and of the RoI stage, as in Mask R-CNN (He et al., 2017), all in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rs4d_edge.errors import InputError
from rs4d_edge.reference.assignment import IGNORED, match, sample
from rs4d_edge.reference.boxes import ROI_STDS, encode_deltas, has_area, pairwise_iou
from rs4d_edge.reference.config import DetectorConfig, NeckType
from rs4d_edge.reference.prompt_head import PromptMaskHead, prompt_mask_loss, prompt_mask_targets
from rs4d_edge.reference.roi_align import axis_taps, dense_axis_weights, roi_align
from rs4d_edge.reference.rpn import RPNMaps, flat_deltas, flat_logits

if TYPE_CHECKING:
    from rs4d_edge.reference.roi_stage import MaskContext, RoIHead

_MASK_MARGIN = 2  # pixels around an object's box that its mask may reach into


class Target(NamedTuple):
    """The n >= 0 objects of one image, in network-input pixels.

    `boxes` (n, 4) float xyxy, `labels` (n,) int64 from 0, `masks` (n, H, W) bool or uint8 0/1, each inside its box.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor


class LossSettings(NamedTuple):
    """How many boxes of an image learn at each step, and which share of them may be objects."""

    anchors: int = 256
    anchor_positive_share: float = 0.5
    regions: int = 512
    region_positive_share: float = 0.25

    @classmethod
    def of(cls, config: DetectorConfig) -> LossSettings:
        """The published numbers; for the edge family, which has fewer proposals, 128 regions."""
        return cls(regions=128) if config.neck.type is NeckType.EDGE else cls()


class Regions(NamedTuple):
    """Sampled RoIs of a batch: `boxes` (R, 4), their images `batch_index` (R,), and what they learn.

    `labels` (R,), background = number of classes; `matched` (R,) index of the object in its image, < 0 for background.
    """

    boxes: Tensor
    batch_index: Tensor
    labels: Tensor
    matched: Tensor


def proposal_losses(
    maps: RPNMaps, anchors: Tensor, targets: Sequence[Target], settings: LossSettings, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """`rpn_cls` (binary cross-entropy) and `rpn_box` (L1) over sampled `anchors` (N, 4), all levels in a row.

    Both are divided by the number of sampled anchors of the batch.
    """
    logits = torch.cat([flat_logits(cls) for cls in maps.cls], dim=1)
    deltas = torch.cat([flat_deltas(reg) for reg in maps.reg], dim=1)
    cls_loss, box_loss, total = logits.new_zeros(()), logits.new_zeros(()), 0
    for image, target in enumerate(targets):
        boxes = target.boxes.to(anchors)
        matched = match(pairwise_iou(boxes, anchors), 0.7, 0.3, keep_best=True)
        positives, negatives = sample(matched, settings.anchors, settings.anchor_positive_share, generator)
        chosen = torch.cat((positives, negatives))
        truth = torch.zeros(len(chosen), device=logits.device)
        truth[: len(positives)] = 1
        cls_loss = cls_loss + functional.binary_cross_entropy_with_logits(logits[image, chosen], truth, reduction="sum")
        goal = encode_deltas(anchors[positives], boxes[matched[positives]])
        box_loss = box_loss + (deltas[image, positives] - goal).abs().sum()
        total += len(chosen)
    return {"rpn_cls": cls_loss / max(total, 1), "rpn_box": box_loss / max(total, 1)}


def region_losses(
    head: RoIHead,
    levels: Sequence[Tensor],
    proposals: Tensor,
    targets: Sequence[Target],
    context: MaskContext,
    settings: LossSettings,
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    """`cls`, `box` and `mask` of the RoI stage on samples of `proposals` (B, P, 4) and the objects' own boxes.

    `context` is what the mask head reads besides `levels`.
    """
    classes = len(head.config.classes)
    regions = sample_regions(proposals, targets, classes, settings, generator)
    pooled = head.pool_by_level(levels, regions.boxes, regions.batch_index, head.config.roi.box_size)
    logits, deltas = head.bbox_head(pooled)
    positive = (regions.labels < classes).nonzero()[:, 0]
    objects = Regions(*(part[positive] for part in regions))
    own = deltas[positive].reshape(-1, classes, 4)[torch.arange(len(positive), device=deltas.device), objects.labels]
    truth = torch.cat([target.boxes.to(objects.boxes) for target in targets])[_flat_index(objects, targets)]
    goal = encode_deltas(objects.boxes, truth, ROI_STDS)
    count = max(len(regions.labels), 1)
    return {
        "cls": functional.cross_entropy(logits, regions.labels, reduction="sum") / count,
        "box": (own - goal).abs().sum() / count,
        "mask": _mask_loss(head, levels, objects, targets, context),
    }


@torch.no_grad()
def sample_regions(
    proposals: Tensor,
    targets: Sequence[Target],
    classes: int,
    settings: LossSettings,
    generator: torch.Generator | None,
) -> Regions:
    """Choose the RoIs that learn, image after image, positives first. Zero boxes (padding) are never chosen."""
    chosen: list[Regions] = []
    for image, target in enumerate(targets):
        _check_target(target, image, classes)
        objects = target.boxes.to(proposals)
        boxes = torch.cat((objects, proposals[image]))
        matched = match(pairwise_iou(objects, boxes), 0.5, 0.5, keep_best=False)
        matched = torch.where(has_area(boxes), matched, torch.full_like(matched, IGNORED))
        positives, negatives = sample(matched, settings.regions, settings.region_positive_share, generator)
        index = torch.cat((positives, negatives))
        labels = torch.full((len(index),), classes, device=boxes.device)
        labels[: len(positives)] = target.labels.to(boxes.device)[matched[positives]]
        chosen.append(Regions(boxes[index], torch.full_like(labels, image), labels, matched[index]))
    return Regions(*(torch.cat(parts) for parts in zip(*chosen, strict=True)))


@torch.no_grad()
def mask_targets(target: Target, boxes: Tensor, matched: Tensor, size: int) -> Tensor:
    """What the masks of `boxes` (R, 4) should be: (R, size, size) float 0 or 1, cropped from object `matched` (R,).

    A cell is 1 where RoIAlign of the object's mask gives >= 0.5. Its weights are a product of one matrix per axis, and
    only the pixels of the object's box count, so that a crop is two small matrix products.
    """
    result = torch.zeros((len(boxes), size, size), device=boxes.device)
    height, width = target.masks.shape[1:]
    windows = torch.cat((target.boxes[:, :2].floor() - _MASK_MARGIN, target.boxes[:, 2:].ceil() + _MASK_MARGIN), dim=1)
    for instance in torch.unique(matched).tolist():
        chosen = (matched == instance).nonzero()[:, 0]
        left, top, right, bottom = (max(0, int(side)) for side in windows[instance].tolist())
        rows, columns = slice(top, min(bottom, height)), slice(left, min(right, width))
        low = boxes[chosen, :2] - 0.5
        length = (boxes[chosen, 2:] - boxes[chosen, :2]).clamp(min=1e-3)
        y = dense_axis_weights(axis_taps(low[:, 1], length[:, 1], size, height), height)[:, :, rows]
        x = dense_axis_weights(axis_taps(low[:, 0], length[:, 0], size, width), width)[:, :, columns]
        mask = target.masks[instance, rows, columns].to(boxes)
        with torch.autocast(boxes.device.type, enabled=False):  # half a cell of the threshold would be lost in bf16
            result[chosen] = torch.matmul(y, mask).matmul(x.transpose(1, 2))
    return (result >= 0.5).float()


def _mask_loss(
    head: RoIHead,
    levels: Sequence[Tensor],
    objects: Regions,
    targets: Sequence[Target],
    context: MaskContext,
) -> Tensor:
    pooled = head.pool_by_level(levels, objects.boxes, objects.batch_index, head.config.roi.mask_size)
    if isinstance(head.mask_head, PromptMaskHead):
        logits = head.mask_head(pooled, context.embedding, objects.batch_index, context.positions).float()
        size_hw = (logits.shape[1], logits.shape[2])
        small = [prompt_mask_targets(target.masks, size_hw) for target in targets if len(target.boxes)]
        goal = torch.cat(small).to(logits)[_flat_index(objects, targets)] if small else torch.zeros_like(logits)
        return prompt_mask_loss(logits, goal)
    detail = None
    if context.stem is not None:
        detail = roi_align(context.stem, objects.boxes, objects.batch_index, *head.detail_grid)
    logits = head.mask_head.of_class(pooled, objects.labels, detail)
    if not len(logits):
        return logits.sum()
    goals = []
    for image, target in enumerate(targets):
        own = objects.batch_index == image
        goals.append(mask_targets(target, objects.boxes[own], objects.matched[own], logits.shape[-1]))
    return functional.binary_cross_entropy_with_logits(logits, torch.cat(goals))


def _flat_index(objects: Regions, targets: Sequence[Target]) -> Tensor:
    """Index (R,) of each region's object among the objects of all images in a row."""
    counts = torch.tensor([0] + [len(target.boxes) for target in targets], device=objects.matched.device)
    return counts.cumsum(0)[objects.batch_index] + objects.matched


def _check_target(target: Target, image: int, classes: int) -> None:
    count = len(target.boxes)
    if target.boxes.shape != (count, 4) or target.labels.shape != (count,) or target.masks.shape[0] != count:
        raise InputError(
            f"target of image {image}: boxes {tuple(target.boxes.shape)}, labels {tuple(target.labels.shape)} and "
            f"masks {tuple(target.masks.shape)} must describe the same n objects: (n, 4), (n,) and (n, H, W)"
        )
    if count and not 0 <= int(target.labels.min()) <= int(target.labels.max()) < classes:
        raise InputError(f"target of image {image}: labels must lie in 0..{classes - 1}, got {target.labels.tolist()}")
