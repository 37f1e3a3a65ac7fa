from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

from rs4d_edge.errors import DataError
from rs4d_edge.evaluation.coco import evaluate, match_categories, score_results
from tests.training.tiny_data import write_tiny_coco


@dataclass
class Answer:
    """Detections made of the ground truth: moved, with one score each."""

    content: dict[str, Any]
    image: dict[str, Any]
    shift_x: int
    classes: Sequence[str]

    def to_coco(self, *, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        results = []
        for annotation in self.content["annotations"]:
            if annotation["image_id"] != self.image["id"]:
                continue
            x, y, width, height = annotation["bbox"]
            ring = np.asarray(annotation["segmentation"][0], float) + np.array([self.shift_x, 0] * 4)
            rle = coco_mask.frPyObjects([ring.tolist()], self.image["height"], self.image["width"])[0]
            label = sorted({c["id"] for c in self.content["categories"]}).index(annotation["category_id"])
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "bbox": [x + self.shift_x, y, width, height],
                    "segmentation": rle,
                    "score": 0.9,
                }
            )
        return results


class Oracle:
    """Answers from the annotation file, image by image in its order."""

    def __init__(self, annotations: Path, shift_x: int = 0, names: Sequence[str] | None = None) -> None:
        self.content = json.loads(annotations.read_text())
        self.shift_x = shift_x
        self.names = names or [c["name"] for c in sorted(self.content["categories"], key=lambda c: c["id"])]
        self.calls = 0

    def run(self, frame: NDArray[np.uint8], /) -> Answer:
        image = self.content["images"][self.calls]
        self.calls += 1
        assert frame.shape == (image["height"], image["width"], 3)
        return Answer(self.content, image, self.shift_x, self.names)


class Blind(Oracle):
    def run(self, frame: NDArray[np.uint8], /) -> Any:
        answer = super().run(frame)
        answer.content = {**self.content, "annotations": []}
        return answer


def test_perfect_detections_score_one(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    seen: list[tuple[int, int]] = []
    figures = evaluate(Oracle(annotations), annotations, images, lambda done, total: seen.append((done, total)))
    for kind in ("bbox", "segm"):
        assert figures[kind]["AP"] == pytest.approx(1.0, abs=1e-9)
        assert figures[kind]["per_class"]["square"] == {"AP": pytest.approx(1.0), "AP50": pytest.approx(1.0)}
        assert figures[kind]["APl"] is None  # no large object in the tiny set
    assert figures["confusion"]["classes"] == ["square", "bar"]  # by id, not in the order of the file
    assert figures["confusion"]["matrix"] == [[4, 0, 0], [0, 4, 0], [0, 0, 0]]
    assert seen[-1] == (len(seen), len(seen))


def test_boxes_moved_by_a_quarter_score_at_iou_below_0_6_alone(tmp_path: Path) -> None:
    """40 px squares moved by 10 px have IoU 30/50 = 0.6: two thresholds of ten (0.5, 0.55) and, by equality, 0.6."""
    annotations, images = write_tiny_coco(tmp_path, side=40)
    figures = evaluate(Oracle(annotations, shift_x=11), annotations, images)
    assert figures["bbox"]["AP50"] == pytest.approx(1.0)
    assert figures["bbox"]["AP75"] == pytest.approx(0.0)
    assert figures["bbox"]["AP"] == pytest.approx(0.2)  # IoU 29/51 = 0.569
    assert figures["segm"]["AP"] == pytest.approx(0.2)


def test_no_detections_score_zero(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    figures = evaluate(Blind(annotations), annotations, images)
    assert figures["detections"] == 0
    assert figures["segm"]["AP"] == 0.0
    assert figures["confusion"]["matrix"] == [[0, 0, 4], [0, 0, 4], [0, 0, 0]]
    assert figures["bbox"]["per_class"]["square"]["AP50"] == 0.0
    assert (figures["segm"]["APs"], figures["segm"]["APm"]) == (0.0, None)  # 24 px squares are small ones


def test_size_is_the_mask_s_for_masks_and_the_box_s_for_boxes(tmp_path: Path) -> None:
    """A false thin mask in a large box: to the masks of small objects it matters, to the boxes of small ones not."""
    annotations, _ = write_tiny_coco(tmp_path, images=1)
    truth = json.loads(annotations.read_text())
    truth["annotations"] = truth["annotations"][:1]
    thin = np.zeros((96, 128), np.uint8, order="F")
    thin[1:92, 2] = 1
    true = Answer(truth, truth["images"][0], 0, ["square", "bar"]).to_coco(image_id=1, category_ids=[10, 20])
    false = {**true[0], "bbox": [2, 1, 90, 91], "segmentation": coco_mask.encode(thin), "score": 0.95}
    figures = score_results(truth, [*true, false])
    assert figures["segm"]["APs"] == pytest.approx(0.5)
    assert figures["bbox"]["APs"] == pytest.approx(1.0)


def test_the_first_images_alone(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    oracle = Oracle(annotations)
    assert evaluate(oracle, annotations, images, limit=2)["images"] == oracle.calls == 2


def test_classes_without_objects_have_no_figure(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    content = json.loads(annotations.read_text())
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] == 10]
    annotations.write_text(json.dumps(content))
    figures = evaluate(Oracle(annotations), annotations, images)
    assert figures["segm"]["per_class"] == {
        "square": {"AP": pytest.approx(1.0), "AP50": pytest.approx(1.0)},
        "bar": {"AP": None, "AP50": None},
    }


@pytest.mark.parametrize("crowd", [False, True])
def test_data_without_objects_measures_nothing(tmp_path: Path, crowd: bool) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    content = json.loads(annotations.read_text())
    content["annotations"] = [{**each, "iscrowd": 1} for each in content["annotations"]] if crowd else []
    annotations.write_text(json.dumps(content))
    with pytest.raises(DataError, match="no object"):
        evaluate(Oracle(annotations), annotations, images)


def test_an_annotation_without_its_area_is_named(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    content = json.loads(annotations.read_text())
    del content["annotations"][3]["area"]
    annotations.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"annotation 4 of .* has no area"):
        evaluate(Oracle(annotations), annotations, images)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    with pytest.raises(DataError, match="'disc'"):
        evaluate(Oracle(annotations, names=["square", "disc"]), annotations, images)


def test_categories_are_matched_by_name_not_by_place() -> None:
    categories = [{"id": 7, "name": "ship"}, {"id": 3, "name": "bridge"}]
    assert match_categories(categories, ("ship", "bridge"), Path("a.json")) == [7, 3]


def test_missing_images_are_named_or_skipped(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    first = json.loads(annotations.read_text())["images"][-1]["file_name"]
    (images / first).unlink()
    with pytest.raises(DataError, match=first):
        evaluate(Oracle(annotations), annotations, images)
    figures = evaluate(Oracle(annotations), annotations, images, skip_missing=True)
    assert figures["segm"]["AP"] == pytest.approx(1.0)


def test_an_unreadable_image_is_an_error(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    first = json.loads(annotations.read_text())["images"][0]["file_name"]
    (images / first).write_bytes(b"no picture")
    assert cv2.imread(str(images / first)) is None
    with pytest.raises(DataError, match="cannot read the image"):
        evaluate(Oracle(annotations), annotations, images)


def test_other_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"images": []}')
    with pytest.raises(DataError, match="no list 'annotations'"):
        evaluate(Oracle.__new__(Oracle), path, tmp_path)
