"""COCO box and mask AP of anything that turns frames into detections: a model, a checkpoint, a bundle.

Source of the measure: Lin et al., 2014, with COCO's area ranges and 100 detections per image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from rs4d_edge.errors import DataError
from rs4d_edge.training.datasets import missing_images_message, read_annotations, split_by_presence

ReportProgress = Callable[[int, int], None]
KINDS: tuple[Literal["bbox", "segm"], ...] = ("bbox", "segm")
SUMMARY_PLACES = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5}  # in COCO's list of statistics
IOU_50 = 0  # place of IoU 0.5 among COCO's ten thresholds
ALL_AREAS = 0


class CocoDetections(Protocol):
    """What evaluation reads of `rs4d_edge.detections.Detections`."""

    @property
    def classes(self) -> Sequence[str]:
        """Class names in label order."""

    def to_coco(self, *, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """COCO result entries with `bbox` (xywh), `score`, `category_id` and RLE `segmentation`."""


class FrameDetector(Protocol):
    """What evaluation needs of `rs4d_edge.predictor.Predictor`."""

    def run(self, frame: NDArray[np.uint8], /) -> CocoDetections:
        """Detections in a frame (H, W, 3) uint8 RGB."""


def evaluate(
    predictor: FrameDetector,
    annotations: Path,
    images_dir: Path,
    progress: ReportProgress | None = None,
    *,
    skip_missing: bool = False,
) -> dict[str, Any]:
    """Runs every annotated image and returns `{"images": n, "detections": n, "bbox": {...}, "segm": {...}}`.

    Both parts hold AP, AP50, AP75, APs, APm, APl and `per_class` {name: {AP, AP50}}, fractions of 1; -1 stands, as in
    COCO's own tool, where there is no object to find. `progress(done, total)` is called after each image.
    `DataError`: missing or unreadable images (unless `skip_missing` leaves the missing out), malformed annotations,
    or classes that are not those of the model.
    """
    truth = _truth(annotations, images_dir, skip_missing)
    results: list[dict[str, Any]] = []
    category_ids: list[int] | None = None
    for done, image in enumerate(truth["images"], start=1):
        detections = predictor.run(_read_rgb(images_dir / image["file_name"]))
        if category_ids is None:
            category_ids = match_categories(truth["categories"], detections.classes, annotations)
        results += detections.to_coco(image_id=int(image["id"]), category_ids=category_ids)
        if progress is not None:
            progress(done, len(truth["images"]))
    figures = score_results(truth, results)
    return {"images": len(truth["images"]), "detections": len(results), **figures}


def score_results(truth: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Box and mask figures of COCO results (RLE masks) against COCO ground truth, keys `bbox` and `segm`."""
    names = {int(category["id"]): str(category["name"]) for category in truth["categories"]}
    if not results:
        return {kind: _nothing_found(truth, names) for kind in KINDS}
    reference = COCO(truth)
    found = reference.loadRes(results)
    figures: dict[str, Any] = {}
    for kind in KINDS:
        measure = COCOeval_faster(reference, found, iouType=kind, print_function=_silent)
        measure.run()
        values: dict[str, Any] = {name: float(measure.stats[place]) for name, place in SUMMARY_PLACES.items()}
        precision = np.asarray(measure.eval["precision"])  # IoU, recall, class, area, detections per image
        per_class = {}
        for place, category in enumerate(measure.params.catIds):
            of_class = precision[:, :, place, ALL_AREAS, -1]
            per_class[names[int(category)]] = {"AP": _mean(of_class), "AP50": _mean(of_class[IOU_50])}
        figures[kind] = {**values, "per_class": per_class}
    return figures


def match_categories(categories: list[dict[str, Any]], class_names: Sequence[str], annotations: Path) -> list[int]:
    """The data set's category id of each model label, matched by name. `DataError` where the two sets differ."""
    ids = {str(category["name"]): int(category["id"]) for category in categories}
    unknown = [name for name in class_names if name not in ids]
    unseen = [name for name in ids if name not in class_names]
    if unknown or unseen:
        raise DataError(
            f"{annotations} and the model have different classes: only the model knows {unknown}, only the data "
            f"{unseen}; evaluate the model on data with its own classes ({', '.join(class_names)})"
        )
    return [ids[name] for name in class_names]


def _truth(annotations: Path, images_dir: Path, skip_missing: bool) -> dict[str, Any]:
    content = read_annotations(annotations)
    present, absent = split_by_presence(content["images"], images_dir)
    if absent and not skip_missing:
        raise DataError(missing_images_message(annotations, images_dir, absent, len(content["images"])))
    if not present:
        raise DataError(f"{annotations} names no image that exists in {images_dir}")
    kept = {image["id"] for image in present}
    known = {category["id"] for category in content["categories"]}
    objects = [annotation for annotation in content["annotations"] if annotation["image_id"] in kept]
    stray = {annotation["category_id"] for annotation in objects} - known
    if stray:
        raise DataError(f"{annotations} has annotations of the unknown categories {sorted(stray)}")
    return {**content, "images": present, "annotations": objects}


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"cannot read the image {path}")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _nothing_found(truth: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    """COCO's figures without any detection: 0 wherever there was something to find."""
    present = {annotation["category_id"] for annotation in truth["annotations"] if not annotation.get("iscrowd", 0)}
    overall = 0.0 if present else -1.0
    per_class = {name: dict.fromkeys(("AP", "AP50"), 0.0 if key in present else -1.0) for key, name in names.items()}
    return {**dict.fromkeys(SUMMARY_PLACES, overall), "per_class": per_class}


def _mean(precision: NDArray[np.float64]) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0


def _silent(*_: object) -> None:
    """COCOeval prints its table; ours is printed by the command."""
