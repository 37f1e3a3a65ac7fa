"""Box head: the published selection, the order of its outputs, and what padding may not do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rs4d_edge.reference.box_head import BoxHead
from rs4d_edge.reference.config import DetectorConfig
from tests.reference.tiny_detector import TINY

PUBLISHED_SELECTION = Path(__file__).parents[1] / "data" / "box_selection.npz"
BOX = [10.0, 10.0, 50.0, 50.0]


def _logits(*rows: tuple[int, float]) -> torch.Tensor:
    """Class logits (R, 4) that give (class, probability) and leave the rest to background, class 3."""
    probability = torch.full((len(rows), 4), 1e-9)
    for row, (label, value) in enumerate(rows):
        probability[row, label] = value
        probability[row, 3] = 1 - value
    return probability.log()


def test_selection_of_the_published_implementation() -> None:
    """Its class scores and deltas of every proposal that reaches a score of 0.04, and what it detected."""
    with np.load(PUBLISHED_SELECTION) as stored:
        numbers = {name: torch.from_numpy(stored[name]) for name in stored.files}
    small = DetectorConfig().model_copy(update={"roi": DetectorConfig().roi.model_copy(update={"fc_channels": 1})})
    head = BoxHead(small)
    found = head.select(numbers["proposals"][None], numbers["class_logits"], numbers["deltas"], (512, 512))
    count = len(numbers["scores"])
    assert int((found.scores > 0).sum()) == count == 39
    assert torch.equal(found.labels[0, :count], numbers["labels"])
    torch.testing.assert_close(found.boxes[0, :count], numbers["boxes"], atol=1e-3, rtol=0)
    torch.testing.assert_close(found.scores[0, :count], numbers["scores"], atol=1e-5, rtol=0)
    assert not found.boxes[0, count:].any()
    assert not found.labels[0, count:].any()


def test_outputs_of_the_layers() -> None:
    logits, deltas = BoxHead(TINY)(torch.randn(5, 32, 7, 7))
    assert logits.shape == (5, 4)
    assert deltas.shape == (5, 12)


def test_deltas_are_those_of_the_class() -> None:
    deltas = torch.zeros(1, 12)
    deltas[0, 4:8] = torch.tensor([1.0, 0.0, 0.0, 0.0])  # class 1 moves right by 0.1 widths
    proposals = torch.tensor([[BOX]])
    moved = BoxHead(TINY).select(proposals, _logits((1, 0.9)), deltas, (96, 96))
    stays = BoxHead(TINY).select(proposals, _logits((2, 0.9)), deltas, (96, 96))
    torch.testing.assert_close(moved.boxes[0, 0], torch.tensor([14.0, 10.0, 54.0, 50.0]))
    torch.testing.assert_close(stays.boxes[0, 0], torch.tensor(BOX))
    assert (int(moved.labels[0, 0]), int(stays.labels[0, 0])) == (1, 2)


def test_suppression_is_within_a_class_and_the_threshold_is_strict() -> None:
    proposals = torch.tensor([[BOX, BOX, BOX, [60.0, 60.0, 90.0, 90.0]]])
    logits = _logits((0, 0.8), (0, 0.7), (1, 0.6), (2, 0.04))
    found = BoxHead(TINY).select(proposals, logits, torch.zeros(4, 12), (96, 96))
    torch.testing.assert_close(found.scores[0, :3], torch.tensor([0.8, 0.6, 0.0]), atol=1e-5, rtol=0)
    assert found.labels[0, :2].tolist() == [0, 1]


def test_padded_proposals_never_detect() -> None:
    proposals = torch.tensor([[BOX, [0.0, 0.0, 0.0, 0.0]]])
    deltas = torch.full((2, 12), 3.0)
    found = BoxHead(TINY).select(proposals, _logits((0, 0.6), (1, 0.99)), deltas, (96, 96))
    assert (found.scores > 0).sum() == 1
    assert found.labels[0, 0] == 0


def test_more_candidates_than_detections() -> None:
    corners = torch.arange(20.0) * 4
    proposals = torch.stack((corners, corners, corners + 4, corners + 4), dim=1)[None]
    rows = [(i % 3, 0.3 + 0.02 * i) for i in range(20)]
    found = BoxHead(TINY).select(proposals, _logits(*rows), torch.zeros(20, 12), (96, 96))
    assert found.scores.shape == (1, 10)
    torch.testing.assert_close(found.scores[0], 0.68 - 0.02 * torch.arange(10.0), atol=1e-5, rtol=0)
    assert found.labels[0].tolist() == [(19 - i) % 3 for i in range(10)]
