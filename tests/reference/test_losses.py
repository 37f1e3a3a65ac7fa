"""Losses: their targets, their values where these are known, and that they can be learned from."""

from __future__ import annotations

import pytest
import torch

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.losses import LossSettings, proposal_losses, sample_regions
from rs4d_edge.reference.mask_losses import mask_targets
from rs4d_edge.reference.roi_align import roi_align_reference
from rs4d_edge.reference.rpn import RPNHead, RPNMaps
from rs4d_edge.reference.targets import Target
from tests.reference.tiny_detector import SIDE, TINY, no_objects, scene

NAMES = {"rpn_cls", "rpn_box", "cls", "box", "mask"}


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_mask_targets_are_pooled_masks() -> None:
    generator = _generator()
    boxes = torch.tensor([[4.0, 3.0, 30.0, 40.0], [20.0, 10.0, 60.0, 50.0]])
    masks = torch.zeros(2, 64, 80, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = torch.rand(bottom - top, right - left, generator=generator) > 0.5
    target = Target(boxes, torch.tensor([0, 1]), masks)
    matched = torch.tensor([1, 0, 0, 1])
    low = torch.tensor([[18.3, 8.1], [0.0, 0.0], [10.5, 20.2], [20.0, 10.0]])
    regions = torch.cat((low, low + torch.tensor([[40.0, 45.5], [33.3, 50.0], [15.1, 30.0], [40.0, 40.0]])), dim=1)
    pooled = roi_align_reference(masks[matched][:, None].float(), regions, torch.arange(4), 14, 1.0)[:, 0]
    clear = (pooled - 0.5).abs() > 1e-4  # a cell that is half covered may go either way
    cropped = mask_targets(target, regions, matched, 14)
    assert torch.equal(cropped[clear], (pooled >= 0.5).float()[clear])
    assert clear.float().mean() > 0.9
    assert 0.2 < float(cropped.mean()) < 0.8


def test_a_perfect_proposal_network_has_no_loss() -> None:
    head, (_, _, targets) = RPNHead(TINY), scene()
    sizes = [-(-SIDE // stride) for stride in TINY.proposals.strides]
    maps = RPNMaps(
        tuple(torch.zeros(1, 6, size, size) for size in sizes), tuple(torch.zeros(1, 24, size, size) for size in sizes)
    )
    anchors = torch.cat(head.anchors(maps))
    target = Target(anchors[[40, 700]], targets[0].labels, targets[0].masks)  # two anchors are the objects
    settings = LossSettings(anchors=100_000, anchor_positive_share=1.0)
    undecided = proposal_losses(maps, anchors, [target], settings, _generator())
    assert float(undecided["rpn_cls"]) == pytest.approx(0.6931, abs=1e-3)
    found = torch.full((len(anchors),), -20.0)
    found[[40, 700]] = 20.0
    split = [
        part.reshape(1, size, size, 6).permute(0, 3, 1, 2)
        for part, size in zip(
            torch.split(found, [size * size * 6 for size in sizes]),
            sizes,
            strict=True,
        )
    ]
    decided = proposal_losses(RPNMaps(tuple(split), maps.reg), anchors, [target], settings, _generator())
    assert float(decided["rpn_cls"]) < 0.05
    assert float(decided["rpn_box"]) < 0.05


def test_regions_hold_the_objects_and_no_padding() -> None:
    _, _, (target,) = scene()
    proposals = torch.zeros(1, 30, 4)
    proposals[0, 0] = torch.tensor([11.0, 12.0, 42.0, 36.0])  # overlaps object 0
    proposals[0, 1] = torch.tensor([0.0, 60.0, 20.0, 90.0])  # background
    regions = sample_regions(proposals, [target], 3, LossSettings(regions=64), _generator())
    assert len(regions.boxes) == 4
    assert regions.labels.tolist() == [0, 2, 0, 3]
    assert regions.matched[:3].tolist() == [0, 1, 0]
    torch.testing.assert_close(regions.boxes[:2], target.boxes)


def test_losses_are_finite_single_precision_and_reach_every_part() -> None:
    model = RS4D(TINY).train()
    frame, valid_hw, targets = scene(batch=2)
    losses = model.losses(frame, valid_hw, [targets[0], no_objects()], generator=_generator())
    assert set(losses) == NAMES
    assert all(loss.dtype is torch.float32 and loss.ndim == 0 and bool(loss.isfinite()) for loss in losses.values())
    torch.autograd.backward(list(losses.values()))
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_batch_without_any_object() -> None:
    model = RS4D(TINY).train()
    frame, valid_hw, _ = scene(batch=2)
    losses = model.losses(frame, valid_hw, [no_objects(), no_objects()], generator=_generator())
    assert {name: float(losses[name].detach()) for name in ("rpn_box", "box", "mask")} == {
        "rpn_box": 0.0,
        "box": 0.0,
        "mask": 0.0,
    }
    torch.autograd.backward(list(losses.values()))


def test_autocast_keeps_losses_in_single_precision() -> None:
    model = RS4D(TINY).train()
    frame, valid_hw, targets = scene(batch=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.losses(frame, valid_hw, targets, generator=_generator())
    assert all(loss.dtype is torch.float32 and bool(loss.isfinite()) for loss in losses.values())


def test_one_scene_can_be_learned() -> None:
    torch.manual_seed(1)
    model = RS4D(TINY).train()
    frame, valid_hw, targets = scene()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator, history = _generator(), []
    for _ in range(60):
        losses = model.losses(frame, valid_hw, targets, generator=generator)
        history.append({name: float(loss.detach()) for name, loss in losses.items()})
        optimizer.zero_grad()
        torch.autograd.backward(list(losses.values()))
        optimizer.step()
    assert history[-1]["mask"] < 0.5 * history[0]["mask"]
    assert sum(history[-1].values()) < 0.35 * sum(history[0].values())


def test_the_same_generator_gives_the_same_losses() -> None:
    model = RS4D(TINY).eval()
    frame, valid_hw, targets = scene(batch=2)
    with torch.no_grad():
        runs = [model.losses(frame, valid_hw, targets, generator=_generator()) for _ in range(2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in NAMES)


def test_the_number_of_regions_follows_the_family() -> None:
    assert LossSettings.of(TINY).regions == 128
    assert LossSettings.of(DetectorConfig()).regions == 512


def test_malformed_targets_are_named() -> None:
    model = RS4D(TINY)
    frame, valid_hw, (target,) = scene()
    with pytest.raises(InputError, match="one per image"):
        model.losses(frame, valid_hw, [target, target])
    with pytest.raises(InputError, match=r"labels must lie in 0\.\.2"):
        model.losses(frame, valid_hw, [target._replace(labels=torch.tensor([0, 3]))])
    with pytest.raises(InputError, match="same n objects"):
        model.losses(frame, valid_hw, [target._replace(labels=torch.tensor([0]))])
