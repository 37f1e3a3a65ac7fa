from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rs4d_edge.contract import MaskKind, ModelContract
from tests.stand_ins import contract


def test_shapes_of_both_kinds_of_masks() -> None:
    roi = contract(size_hw=(512, 640), detections=50, batch=2)
    assert roi.input_shapes == {"frame": (2, 512, 640, 3), "valid_hw": (2, 2)}
    assert roi.output_shapes == {"boxes": (2, 50, 4), "scores": (2, 50), "labels": (2, 50), "masks": (2, 50, 28, 28)}
    frame = contract(MaskKind.FRAME, size_hw=(512, 640), detections=50)
    assert frame.output_shapes["masks"] == (1, 50, 128, 160)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size_hw": (0, 64)},
        {"classes": ()},
        {"head": "prompt"},
        {"std_rgb": (1.0, 0.0, 1.0)},
        {"mean_rgb": (float("nan"), 0.0, 0.0)},
        {"score_threshold": 1.0},
        {"max_detections": 0},
        {"color_order": "BGR"},
        {"resize_rule": "stretch"},
        {"anchor": 3},
    ],
)
def test_what_cannot_be_meant_is_refused(change: dict[str, Any]) -> None:
    fields = contract().model_dump()
    with pytest.raises(ValidationError, match=next(iter(change)).split("_")[0]):
        ModelContract(**{**fields, **change})


def test_it_does_not_change() -> None:
    model = contract()
    with pytest.raises(ValidationError, match="frozen"):
        model.score_threshold = 0.5  # type: ignore[misc]
