from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from rs4d_edge.detections import Detections
from rs4d_edge.errors import FrameError, InputError
from rs4d_edge.masks import InstanceMask, MaskCrop, roi_masks
from tests.stand_ins import CLASSES, square_detections


def test_fields_and_iteration() -> None:
    detections = square_detections()
    assert len(detections) == 2
    assert detections.boxes_xyxy.dtype == np.float32 and detections.boxes_xyxy.shape == (2, 4)
    assert detections.class_names == ("airplane", "bridge")
    first, second = detections
    assert (first.class_name, first.label, first.box_xyxy) == ("airplane", 0, (10.0, 5.0, 30.0, 15.0))
    assert second.score == pytest.approx(0.4)
    assert repr(detections) == "Detections(2 in a frame of 40x50)"


def test_masks_at_full_size() -> None:
    detections = square_detections()
    expected = np.zeros((2, 40, 50), np.bool_)
    expected[0, 5:15, 10:30] = True
    expected[1, 10:30, 20:40] = True
    np.testing.assert_array_equal(detections.masks(), expected)
    np.testing.assert_array_equal(detections.mask(1), expected[1])
    np.testing.assert_array_equal(detections[1].mask(), expected[1])
    assert detections[:0].masks().shape == (0, 40, 50)


def test_selection_by_everything_that_selects() -> None:
    detections = square_detections()
    assert detections[-1].class_name == "bridge"
    assert detections[np.int64(0)].class_name == "airplane"  # type: ignore[call-overload]
    for which in (slice(1, None), [1], np.array([1]), np.array([False, True]), [False, True], (1,)):
        assert detections[which].class_names == ("bridge",)
    assert len(detections[[]]) == len(detections[np.array([], np.int64)]) == len(detections[[False, False]]) == 0
    assert detections[[1, 0, 1]].class_names == ("bridge", "airplane", "bridge")


def test_selection_that_makes_no_sense_is_refused() -> None:
    detections = square_detections()
    with pytest.raises(IndexError, match="out of range for 2"):
        detections[2]
    with pytest.raises(InputError, match="3,"):
        detections[np.array([True, False, True])]
    with pytest.raises(InputError, match="float64"):
        detections[[0.5]]  # type: ignore[list-item]


def test_filters() -> None:
    detections = square_detections()
    assert detections.filter(min_score=0.5).class_names == ("airplane",)
    assert detections.filter(classes=["bridge"]).class_names == ("bridge",)
    assert detections.filter(classes=[0, "bridge"], min_score=0.95).class_names == ()
    assert detections.filter().class_names == detections.class_names
    with pytest.raises(InputError, match="'tank' is unknown"):
        detections.filter(classes=["tank"])


def test_filtered_results_share_rendered_masks_and_the_time_it_took() -> None:
    soft = roi_masks(np.ones((1, 28, 28), np.float32), np.array([[1, 1, 9, 9]], np.float32), (20, 20))
    detections = Detections(
        boxes_xyxy=np.array([[1, 1, 9, 9]], np.float32),
        scores=np.array([0.9]),
        labels=np.array([0]),
        masks=[InstanceMask(soft[0])],
        classes=CLASSES,
        size_hw=(20, 20),
    )
    assert detections.timings.mask_ms == 0
    crop = detections[[0]].mask_crop(0)
    assert detections.mask_crop(0) is crop
    assert detections.timings.mask_ms > 0


def test_coco_results() -> None:
    coco_mask = pytest.importorskip("pycocotools.mask")
    results = square_detections().to_coco(image_id=17, category_ids=[3, 5, 9])
    assert [(each["image_id"], each["category_id"]) for each in results] == [(17, 3), (17, 9)]
    assert results[1]["bbox"] == [20.0, 10.0, 20.0, 20.0]
    json.dumps(results)
    for index, each in enumerate(results):
        decoded = coco_mask.decode(each["segmentation"]).astype(bool)
        np.testing.assert_array_equal(decoded, square_detections().mask(index))
    assert [each["category_id"] for each in square_detections().to_coco(image_id=1)] == [1, 3]
    with pytest.raises(InputError, match="2 entries for 3 classes"):
        square_detections().to_coco(image_id=1, category_ids=[1, 2])


def test_a_dictionary_through_json_loses_nothing() -> None:
    detections = square_detections()
    detections.boxes_xyxy[0, 0] = np.float32(10.1)  # not a short decimal in float32
    again = Detections.from_dict(json.loads(json.dumps(detections.to_dict())))
    for field in ("boxes_xyxy", "scores", "labels"):
        np.testing.assert_array_equal(getattr(again, field), getattr(detections, field))
    np.testing.assert_array_equal(again.masks(), detections.masks())
    assert (again.classes, again.size_hw) == (detections.classes, detections.size_hw)
    assert len(Detections.from_dict(detections[:0].to_dict())) == 0


def test_something_else_than_such_a_dictionary_is_refused() -> None:
    content = square_detections().to_dict()
    del content["detections"][0]["mask"]
    with pytest.raises(InputError, match="mask"):
        Detections.from_dict(content)


def test_results_can_be_sent_to_another_process() -> None:
    again = pickle.loads(pickle.dumps(square_detections()))  # noqa: S301 (our own bytes)
    np.testing.assert_array_equal(again.masks(), square_detections().masks())


def test_parts_must_belong_together() -> None:
    parts = {
        "boxes_xyxy": np.zeros((1, 4), np.float32),
        "scores": np.zeros(1, np.float32),
        "labels": np.zeros(1, np.int64),
        "masks": [InstanceMask(MaskCrop(0, 0, np.zeros((0, 0), np.bool_)))],
    }
    with pytest.raises(InputError, match="1 boxes, 2 scores"):
        Detections(**{**parts, "scores": np.zeros(2)}, classes=CLASSES, size_hw=(9, 9))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"labels \[3\]"):
        Detections(**{**parts, "labels": np.array([3])}, classes=CLASSES, size_hw=(9, 9))  # type: ignore[arg-type]


def test_drawing_returns_a_new_frame_in_the_same_order_of_colours() -> None:
    detections, frame = square_detections(), np.zeros((40, 50, 3), np.uint8)
    rgb = detections.draw(frame)
    bgr = detections.draw(frame, color="BGR")
    assert frame.max() == 0
    assert rgb.max() > 0
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])
    with pytest.raises(InputError, match="41x50"):
        detections.draw(np.zeros((41, 50, 3), np.uint8))
    with pytest.raises(FrameError):
        detections.draw(np.zeros((40, 50), np.uint8))
