"""Which detections belong together, and what counts as moved."""

from __future__ import annotations

import numpy as np
import pytest

from rs4d_edge.detections import Detections
from rs4d_edge.export.recipes import Precision
from rs4d_edge.export.tolerances import TOLERANCES
from rs4d_edge.masks import InstanceMask, MaskCrop
from rs4d_edge.matching import Match, compare_detections, exceeds, mask_difference, pairwise_iou

Row = tuple[tuple[float, float, float, float], float, int]


def detections(*rows: Row) -> Detections:
    """Boxes, scores and labels; each mask fills its box."""
    masks = [
        InstanceMask(
            MaskCrop(int(box[1]), int(box[0]), np.ones((int(box[3] - box[1]), int(box[2] - box[0])), dtype=bool))
        )
        for box, _, _ in rows
    ]
    return Detections(
        boxes_xyxy=np.array([row[0] for row in rows], dtype=np.float32).reshape(-1, 4),
        scores=np.array([row[1] for row in rows], dtype=np.float32),
        labels=np.array([row[2] for row in rows], dtype=np.int64),
        masks=masks,
        classes=("a", "b"),
        size_hw=(100, 100),
    )


LEFT, RIGHT = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)


def test_order_does_not_matter() -> None:
    first = detections((LEFT, 0.9, 0), (RIGHT, 0.8, 0))
    second = detections((RIGHT, 0.81, 0), (LEFT, 0.8, 0))
    found = compare_detections(first, second, match_iou=0.9)
    assert not found.lonely
    assert [(match.reference, match.exported) for match in found.matches] == [(0, 1), (1, 0)]
    assert [match.score for match in found.matches] == pytest.approx([0.1, 0.01], abs=1e-6)
    assert all(match.mask_iou == 1 and match.box_px == 0 for match in found.matches)


def test_other_class_or_too_little_overlap_is_no_partner() -> None:
    moved = (2.0, 0.0, 12.0, 10.0)  # IoU 2/3
    found = compare_detections(
        detections((LEFT, 0.9, 0), (RIGHT, 0.8, 1)), detections((moved, 0.7, 0), (RIGHT, 0.6, 0)), 0.7
    )
    assert not found.matches
    assert sorted(found.lonely) == pytest.approx([0.6, 0.7, 0.8, 0.9])
    near = compare_detections(detections((LEFT, 0.9, 0)), detections((moved, 0.7, 0)), 0.6)
    assert [match.box_px for match in near.matches] == [2.0]
    assert near.matches[0].mask_iou == pytest.approx(80 / 120) and near.matches[0].mask_px == 40


def test_one_detection_is_the_partner_of_one() -> None:
    found = compare_detections(detections((LEFT, 0.9, 0), (LEFT, 0.5, 0)), detections((LEFT, 0.9, 0)), 0.9)
    assert [match.reference for match in found.matches] == [0] and found.lonely == pytest.approx((0.5,))


@pytest.mark.parametrize(("first", "second"), [((), ()), (((LEFT, 0.9, 0),), ()), ((), ((LEFT, 0.9, 0),))])
def test_empty_lists(first: tuple[Row, ...], second: tuple[Row, ...]) -> None:
    found = compare_detections(detections(*first), detections(*second), 0.9)
    assert not found.matches and len(found.lonely) == len(first) + len(second)


def test_overlap_of_boxes() -> None:
    boxes = np.array([LEFT, (0, 0, 5, 10), (3, 3, 3, 3)], dtype=np.float32)
    expected = np.array([[1, 0.5, 0], [0.5, 1, 0], [0, 0, 0]], dtype=np.float32)
    np.testing.assert_allclose(pairwise_iou(boxes, boxes), expected)


def test_overlap_of_masks_that_lie_apart_or_are_empty() -> None:
    empty = MaskCrop(0, 0, np.zeros((0, 0), dtype=bool))
    square = MaskCrop(5, 5, np.ones((2, 2), dtype=bool))
    shifted = MaskCrop(5, 6, np.ones((2, 2), dtype=bool))
    assert mask_difference(empty, empty) == (1.0, 0)
    assert mask_difference(square, empty) == (0.0, 4)
    assert mask_difference(square, shifted) == pytest.approx((2 / 6, 4))


def test_limits_grow_with_the_frame_and_forgive_the_smallest_masks() -> None:
    limits = TOLERANCES[Precision.FP32]
    same = Match(0, 0, box_px=0.0, score=0.0, mask_iou=1.0, mask_px=0)
    assert not exceeds(same, limits, 1.0)
    assert exceeds(same._replace(box_px=0.6), limits, 1.0) and not exceeds(same._replace(box_px=0.6), limits, 2.0)
    assert exceeds(same._replace(score=2e-3), limits, 10.0)
    assert not exceeds(same._replace(mask_iou=0.5, mask_px=4), limits, 1.0)
    assert exceeds(same._replace(mask_iou=0.5, mask_px=5), limits, 1.0)
