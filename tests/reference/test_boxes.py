"""Deltas, clipping and overlaps of boxes."""

from __future__ import annotations

import math

import pytest
import torch

from rs4d_edge.reference.boxes import (
    MAX_LOG_RATIO,
    ROI_STDS,
    clip_boxes,
    decode_deltas,
    encode_deltas,
    has_area,
    pairwise_iou,
)


@pytest.mark.parametrize("stds", [(1.0, 1.0, 1.0, 1.0), ROI_STDS])
def test_decoding_undoes_encoding(stds: tuple[float, float, float, float]) -> None:
    reference = torch.tensor([[10.0, 20.0, 50.0, 44.0], [0.0, 0.0, 8.0, 80.0]])
    target = torch.tensor([[14.0, 10.0, 44.0, 64.0], [3.0, 9.0, 90.0, 70.0]])
    decoded = decode_deltas(reference, encode_deltas(reference, target, stds), (100, 100), stds)
    torch.testing.assert_close(decoded, target, atol=1e-4, rtol=0)


def test_a_known_delta() -> None:
    box = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # 20 wide, 40 high, centred on (20, 40)
    moved = decode_deltas(box, torch.tensor([[0.5, -0.25, math.log(2.0), 0.0]]), (200, 200))
    torch.testing.assert_close(moved, torch.tensor([[10.0, 10.0, 50.0, 50.0]]))


def test_growth_is_limited() -> None:
    box = torch.tensor([[499.0, 499.0, 501.0, 501.0]])
    grown = decode_deltas(box, torch.tensor([[0.0, 0.0, 50.0, MAX_LOG_RATIO]]), (1000, 1000))
    torch.testing.assert_close(grown, torch.tensor([[437.5, 437.5, 562.5, 562.5]]))


def test_half_precision_deltas_are_decoded_in_single_precision() -> None:
    box = torch.tensor([[900.0, 900.0, 1000.0, 1000.0]])
    decoded = decode_deltas(box, torch.zeros(1, 4, dtype=torch.bfloat16), (1024, 1024))
    assert decoded.dtype is torch.float32
    torch.testing.assert_close(decoded, box, atol=1e-3, rtol=0)


def test_clipping_leaves_boxes_outside_without_area() -> None:
    clipped = clip_boxes(torch.tensor([[-5.0, -5.0, 120.0, 40.0], [70.0, 10.0, 90.0, 20.0]]), (50, 60))
    assert clipped.tolist() == [[0.0, 0.0, 60.0, 40.0], [60.0, 10.0, 60.0, 20.0]]
    assert has_area(clipped).tolist() == [True, False]


def test_overlaps() -> None:
    first = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 5.0, 5.0]])
    second = torch.tensor(
        [[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [20.0, 20.0, 30.0, 30.0], [5.0, 5.0, 5.0, 5.0]]
    )
    iou = pairwise_iou(first, second)
    torch.testing.assert_close(iou, torch.tensor([[1.0, 1 / 3, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
