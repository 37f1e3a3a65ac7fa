"""Training losses of the proposal network and of the RoI stage, as in Mask R-CNN (He et al., 2017), all in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rs4d_edge.reference.assignment import IGNORED, match, sample
from rs4d_edge.reference.boxes import ROI_STDS, encode_deltas, has_area, pairwise_iou
from rs4d_edge.reference.config import DetectorConfig, NeckType
from rs4d_edge.reference.mask_losses import mask_losses
from rs4d_edge.reference.rpn import RPNMaps, flat_deltas, flat_logits
from rs4d_edge.reference.targets import Regions, Target, check_target, flat_index, some

if TYPE_CHECKING:
    from rs4d_edge.reference.roi_stage import MaskContext, RoIHead


class LossSettings(NamedTuple):
    """How many boxes of an image learn at each step, and which share of them may be objects.

    `mask_regions`: at most so many regions of a batch learn masks, None for all objects among them. `box_prompts`: the
    weight of the loss that keeps the prompt embedder's first values at the box (see `prompt_start`).
    """

    anchors: int = 256
    anchor_positive_share: float = 0.5
    regions: int = 512
    region_positive_share: float = 0.25
    mask_regions: int | None = None
    box_prompts: float = 0.0

    @classmethod
    def of(cls, config: DetectorConfig) -> LossSettings:
        """The published numbers; for the edge family, which has fewer proposals, 128 regions."""
        return cls(regions=128) if config.neck.type is NeckType.EDGE else cls()


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

    `context` is what the mask head reads besides `levels`. With `settings.box_prompts`, `prompt_box` as well.
    """
    classes = len(head.config.classes)
    regions = sample_regions(proposals, targets, classes, settings, generator)
    pooled = head.pool_by_level(levels, regions.boxes, regions.batch_index, head.config.roi.box_size)
    logits, deltas = head.bbox_head(pooled)
    positive = (regions.labels < classes).nonzero()[:, 0]
    objects = Regions(*(part[positive] for part in regions))
    own = deltas[positive].reshape(-1, classes, 4)[torch.arange(len(positive), device=deltas.device), objects.labels]
    truth = torch.cat([target.boxes.to(objects.boxes) for target in targets])[flat_index(objects, targets)]
    goal = encode_deltas(objects.boxes, truth, ROI_STDS)
    count = max(len(regions.labels), 1)
    result = {
        "cls": functional.cross_entropy(logits, regions.labels, reduction="sum") / count,
        "box": (own - goal).abs().sum() / count,
    }
    with_masks = some(objects, settings.mask_regions, generator)
    return result | mask_losses(head, levels, with_masks, targets, context, settings.box_prompts)


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
        check_target(target, image, classes)
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
