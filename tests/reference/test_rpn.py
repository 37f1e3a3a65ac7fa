"""Proposals: what is selected, in which shape, and the published maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rs4d_edge.reference import load
from rs4d_edge.reference.boxes import pairwise_iou
from rs4d_edge.reference.rpn import RPNHead, RPNMaps, flat_deltas, flat_logits
from tests.reference.tiny_detector import SIDE, TINY, published_numbers

SIZE = (SIDE, SIDE)
MAP_TOLERANCE = 2e-4


def _maps(batch: int = 2) -> tuple[RPNHead, RPNMaps]:
    head = RPNHead(TINY)
    maps = RPNMaps(
        tuple(torch.randn(batch, 6, -(-SIDE // s), -(-SIDE // s)) * 3 for s in TINY.proposals.strides),
        tuple(torch.randn(batch, 24, -(-SIDE // s), -(-SIDE // s)) * 0.3 for s in TINY.proposals.strides),
    )
    return head, maps


def test_flattening_follows_the_anchors() -> None:
    cls = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)  # (B, A, h, w)
    reg = torch.arange(2 * 12 * 2 * 2.0).reshape(2, 12, 2, 2)
    assert flat_logits(cls)[1, 1 * 3 + 2] == cls[1, 2, 0, 1]
    assert torch.equal(flat_deltas(reg)[1, 2 * 3 + 1], reg[1, 4:8, 1, 0])


def test_proposals_are_sorted_apart_and_inside() -> None:
    head, maps = _maps()
    boxes, scores = head.propose(maps, SIZE)
    assert boxes.shape == (2, 40, 4)
    assert scores.shape == (2, 40)
    assert (scores.diff(dim=1) <= 0).all()
    used = scores > 0
    assert used.all()
    assert (boxes >= 0).all()
    assert (boxes <= SIDE).all()
    assert (boxes[..., 2:] > boxes[..., :2]).all()


def test_a_level_alone_keeps_no_two_boxes_that_overlap() -> None:
    head, maps = _maps(batch=1)
    quiet = tuple(cls if i == 1 else torch.full_like(cls, -1e4) for i, cls in enumerate(maps.cls))
    boxes, scores = head.propose(RPNMaps(quiet, maps.reg), SIZE)
    kept = boxes[0][scores[0] > 0]
    overlap = pairwise_iou(kept, kept).fill_diagonal_(0)
    assert 5 < len(kept) <= 40
    assert float(overlap.max()) <= TINY.proposals.nms_iou


def test_unused_rows_are_zero() -> None:
    head, maps = _maps()
    shrunk = tuple(torch.full_like(reg, -100.0) for reg in maps.reg)  # every box lies far outside
    boxes, scores = head.propose(RPNMaps(maps.cls, shrunk), SIZE)
    assert boxes.shape == (2, 40, 4)
    assert not boxes[scores == 0].any()
    assert (scores == 0).any()
    few = TINY.model_copy(update={"proposals": TINY.proposals.model_copy(update={"proposals": 2000})})
    boxes, scores = RPNHead(few).propose(maps, SIZE)
    assert boxes.shape == (2, 2000, 4)
    assert not boxes[:, 4 * 60 :].any()


def test_images_of_a_batch_do_not_meet() -> None:
    head, maps = _maps()
    together = head.propose(maps, SIZE)
    for image in range(2):
        alone = head.propose(RPNMaps(*(tuple(x[image : image + 1] for x in part) for part in maps)), SIZE)
        assert torch.equal(together.boxes[image], alone.boxes[0])
        assert torch.equal(together.scores[image], alone.scores[0])


@pytest.fixture(scope="module")
def published(fixtures_dir: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our intermediate results and the published numbers."""
    numbers = published_numbers(fixtures_dir)
    with torch.no_grad():
        features = load(fixtures_dir / "detector_bbox.fp16.pth").features(numbers["frame"], torch.tensor([[512, 512]]))
    return features, numbers


@pytest.mark.parametrize("kind", ["cls", "reg"])
@pytest.mark.parametrize("level", range(5))
def test_published_maps(published: tuple[dict[str, Tensor], dict[str, Tensor]], kind: str, level: int) -> None:
    features, numbers = published
    ours, name = features[f"rpn_{kind}.{level}"], f"rpn_{kind}_{level}"
    if level == 0:
        ours, name = ours[..., ::2, ::2], f"{name}_every2"
    torch.testing.assert_close(ours, numbers[name], atol=MAP_TOLERANCE, rtol=0)


def test_published_proposals_but_for_near_ties(published: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    features, numbers = published
    best = pairwise_iou(numbers["proposals"], features["proposals"][0]).amax(dim=1)
    assert int((best > 0.99).sum()) >= 980  # 48 of the published scores are exactly 1, in an order of their own
    torch.testing.assert_close(features["proposal_scores"][0], numbers["proposal_scores"], atol=1e-3, rtol=0)
