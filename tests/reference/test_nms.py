"""Non-maximum suppression against its definition, on boxes that property-based search makes hard."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rs4d_edge.reference.nms import _keep_in_parallel, nms_keep, nms_keep_reference


def _boxes(seed: int, groups: int, count: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Crowded boxes, some of them without area, with scores that often tie."""
    generator = torch.Generator().manual_seed(seed)
    low = (torch.rand(groups, count, 2, generator=generator) * spread).round()
    size = (torch.rand(groups, count, 2, generator=generator) * 20).round()
    scores = (torch.rand(groups, count, generator=generator) * 12).round() / 12
    return torch.cat((low, low + size), dim=2), scores


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    groups=st.integers(0, 4),
    count=st.integers(0, 260),
    spread=st.sampled_from([5.0, 30.0, 300.0]),
    iou=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    score=st.sampled_from([-1.0, 0.0, 0.25, 1.0]),
    most=st.sampled_from([0, 1, 7, 1000]),
)
def test_both_forms_follow_the_definition(
    seed: int, groups: int, count: int, spread: float, iou: float, score: float, most: int
) -> None:
    boxes, scores = _boxes(seed, groups, count, spread)
    expected = nms_keep_reference(boxes, scores, iou, score, most)
    assert torch.equal(nms_keep(boxes, scores, iou, score, most), expected)
    assert torch.equal(_keep_in_parallel(boxes, scores, iou, score, most), expected)


def test_equal_scores_rank_by_index_and_thresholds_are_strict() -> None:
    square = torch.tensor([0.0, 0.0, 10.0, 10.0])
    half = torch.tensor([0.0, 0.0, 10.0, 5.0])  # IoU 0.5 with the square
    boxes = torch.stack((square, square, half))[None]
    assert nms_keep(boxes, torch.tensor([[0.6, 0.6, 0.5]]), 0.5, 0.5, 10).tolist() == [[True, False, False]]
    assert nms_keep(boxes, torch.tensor([[0.6, 0.6, 0.5]]), 0.5, 0.4, 10).tolist() == [[True, False, True]]
    assert nms_keep(boxes, torch.tensor([[0.6, 0.6, 0.5]]), 0.49, 0.4, 10).tolist() == [[True, False, False]]


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [4.0, 0.0, 14.0, 10.0], [8.0, 0.0, 18.0, 10.0]]])
    assert nms_keep(chain, torch.tensor([[0.9, 0.8, 0.7]]), 0.3, 0.0, 10).tolist() == [[True, False, True]]


@pytest.mark.parametrize("count", [1, 300])
def test_the_op_satisfies_what_torch_asks_of_custom_ops(count: int) -> None:
    boxes, scores = _boxes(0, 2, count, 50.0)
    torch.library.opcheck(nms_keep, (boxes, scores, 0.5, 0.1, 20))
