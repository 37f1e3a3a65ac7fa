"""Training losses of both kinds of mask heads, on regions that hold an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import functional

from rs4d_edge.reference.mask_head import MaskHead
from rs4d_edge.reference.prompt_head import PromptMaskHead, prompt_mask_loss, prompt_mask_targets
from rs4d_edge.reference.roi_align import axis_taps, dense_axis_weights, roi_align
from rs4d_edge.reference.targets import Regions, Target, flat_index

if TYPE_CHECKING:
    from rs4d_edge.reference.roi_stage import MaskContext, RoIHead

BOX_VALUES = 4  # the prompt embedder's first hidden values: x1, y1, x2, y2 as shares of the input's sides
_MASK_MARGIN = 2  # pixels around an object's box that its mask may reach into


def mask_losses(
    head: RoIHead,
    levels: Sequence[Tensor],
    objects: Regions,
    targets: Sequence[Target],
    context: MaskContext,
    box_prompts: float = 0.0,
) -> dict[str, Tensor]:
    """`mask` of regions that all hold an object; with a weight `box_prompts`, a prompt head's `prompt_box` as well.

    `context` is what the mask head reads besides `levels`.
    """
    pooled = head.pool_by_level(levels, objects.boxes, objects.batch_index, head.config.roi.mask_size)
    mask_head = head.mask_head
    if isinstance(mask_head, MaskHead):
        return {"mask": _roi_mask_loss(head, mask_head, pooled, objects, targets, context)}
    logits, hidden = _prompted(mask_head, pooled, objects, context)
    size_hw = (logits.shape[1], logits.shape[2])
    small = [prompt_mask_targets(target.masks, size_hw) for target in targets if len(target.boxes)]
    goal = torch.cat(small).to(logits)[flat_index(objects, targets)] if small else torch.zeros_like(logits)
    result = {"mask": prompt_mask_loss(logits, goal)}
    if box_prompts:
        height, width = (head.config.encoder.patch_size * side for side in context.embedding.shape[2:])
        result["prompt_box"] = box_prompts * box_prompt_loss(hidden, objects.boxes, (height, width))
    return result


def box_prompt_loss(hidden: Tensor, boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Mean absolute error of the embedder's first four `hidden` (R, C) values as the boxes' coordinates.

    `boxes` (R, 4) xyxy in pixels of an input of `size_hw`. No region gives 0.
    """
    if not len(boxes):
        return hidden.sum()
    height, width = size_hw
    sides = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    return (hidden[:, :BOX_VALUES].float() - boxes / sides).abs().mean()


def _prompted(
    mask_head: PromptMaskHead, pooled: Tensor, objects: Regions, context: MaskContext
) -> tuple[Tensor, Tensor]:
    """Logits (R, h, w) in fp32, and what the prompt embedder's last layer read (R, C)."""
    image = context.embedding, objects.batch_index, cast(Tensor, context.positions)
    if not len(pooled):
        return mask_head(pooled, *image).float(), pooled.flatten(1)
    hidden = mask_head.point_emb.hidden(pooled)
    return mask_head.decode(mask_head.point_emb.embed(hidden), *image).float(), hidden


def _roi_mask_loss(
    head: RoIHead,
    mask_head: MaskHead,
    pooled: Tensor,
    objects: Regions,
    targets: Sequence[Target],
    context: MaskContext,
) -> Tensor:
    detail = None
    if context.stem is not None:
        detail = roi_align(context.stem, objects.boxes, objects.batch_index, *head.detail_grid)
    logits = mask_head.of_class(pooled, objects.labels, detail)
    if not len(logits):
        return logits.sum()
    goals = []
    for image, target in enumerate(targets):
        own = objects.batch_index == image
        goals.append(mask_targets(target, objects.boxes[own], objects.matched[own], logits.shape[-1]))
    return functional.binary_cross_entropy_with_logits(logits, torch.cat(goals))


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
