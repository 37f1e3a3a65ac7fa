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
from rs4d_edge.evaluation.confusion import confusion_matrix
from rs4d_edge.training.datasets import missing_images_message, read_annotations, split_by_presence

ReportProgress = Callable[[int, int], None]
KINDS: tuple[Literal["bbox", "segm"], ...] = ("bbox", "segm")
SUMMARY_PLACES = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5}  # in COCO's list of statistics
IOU_50 = 0  # place of IoU 0.5 among COCO's ten thresholds
ALL_AREAS = 0
BOX_OF_MASK = ("segm", "bbox")
AREA_RANGES = {"APs": (0.0, 32.0**2), "APm": (32.0**2, 96.0**2), "APl": (96.0**2, 1e10)}  # pixels of the frame


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
    limit: int | None = None,
) -> dict[str, Any]:
    """Runs every annotated image; returns `{"images": n, "detections": n, "bbox": {}, "segm": {}, "confusion": {}}`.

    `bbox` and `segm` hold AP, AP50, AP75, APs, APm, APl and `per_class` {name: {AP, AP50}}, fractions of 1; None stands
    where there is no object to find (COCO's own tool says -1). Sizes of found objects are areas of boxes for `bbox` and
    of masks for `segm`. `confusion` is what `confusion_matrix` returns. `progress(done, total)` is called after each
    image; `limit` takes the file's first images alone.
    `DataError`: missing or unreadable images (unless `skip_missing` leaves the missing out), malformed annotations or
    none, or classes that are not those of the model.
    """
    truth, results = find_objects(predictor, annotations, images_dir, progress, skip_missing=skip_missing, limit=limit)
    figures = score_results(truth, results)
    return {"images": len(truth["images"]), "detections": len(results), **figures}


def find_objects(
    predictor: FrameDetector,
    annotations: Path,
    images_dir: Path,
    progress: ReportProgress | None = None,
    *,
    skip_missing: bool = False,
    limit: int | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs every annotated image, as `evaluate`; returns COCO ground truth and COCO results (RLE masks)."""
    truth = _truth(annotations, images_dir, skip_missing, limit)
    results: list[dict[str, Any]] = []
    category_ids: list[int] | None = None
    for done, image in enumerate(truth["images"], start=1):
        detections = predictor.run(_read_rgb(images_dir / image["file_name"]))
        if category_ids is None:
            category_ids = match_categories(truth["categories"], detections.classes, annotations)
        results += detections.to_coco(image_id=int(image["id"]), category_ids=category_ids)
        if progress is not None:
            progress(done, len(truth["images"]))
    return truth, results


def score_results(truth: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of COCO results (RLE masks) against COCO ground truth, keys `bbox`, `segm` and `confusion`."""
    names = {int(category["id"]): str(category["name"]) for category in truth["categories"]}
    confusion = confusion_matrix(truth, results)
    if not results:
        return {**{kind: _nothing_found(truth, names) for kind in KINDS}, "confusion": confusion}
    return {**{kind: score_kind(truth, results, kind) for kind in KINDS}, "confusion": confusion}


def score_kind(truth: dict[str, Any], results: list[dict[str, Any]], kind: Literal["bbox", "segm"]) -> dict[str, Any]:
    """Figures of one kind of COCO `results`, of which there must be some: AP, AP50, ... and `per_class`."""
    names = {int(category["id"]): str(category["name"]) for category in truth["categories"]}
    reference = COCO(truth)
    # With a box beside it, COCO's tool would take a mask's size from the box.
    found = reference.loadRes([{key: entry[key] for key in entry if (kind, key) != BOX_OF_MASK} for entry in results])
    measure = COCOeval_faster(reference, found, iouType=kind, print_function=_silent)
    measure.run()
    values: dict[str, Any] = {name: _known(measure.stats[place]) for name, place in SUMMARY_PLACES.items()}
    precision = np.asarray(measure.eval["precision"])  # IoU, recall, class, area, detections per image
    per_class = {}
    for place, category in enumerate(measure.params.catIds):
        of_class = precision[:, :, place, ALL_AREAS, -1]
        per_class[names[int(category)]] = {"AP": _mean(of_class), "AP50": _mean(of_class[IOU_50])}
    return {**values, "per_class": per_class}


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


def _truth(annotations: Path, images_dir: Path, skip_missing: bool, limit: int | None) -> dict[str, Any]:
    content = read_annotations(annotations)
    present, absent = split_by_presence(content["images"][:limit], images_dir)
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
    objects = [_object(annotation, annotations) for annotation in objects]
    if all(annotation["iscrowd"] for annotation in objects):
        raise DataError(
            f"{annotations} has no object in the {len(present)} images: there is nothing to measure against"
        )
    return {**content, "images": present, "annotations": objects}


def _object(annotation: dict[str, Any], source: Path) -> dict[str, Any]:
    lacking = [key for key in ("id", "bbox", "area", "segmentation") if key not in annotation]
    if lacking:
        raise DataError(f"annotation {annotation.get('id')} of {source} has no {', '.join(lacking)}: needed to measure")
    return {"iscrowd": 0, **annotation}


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"cannot read the image {path}")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _nothing_found(truth: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    """COCO's figures without any detection: 0 wherever there was something to find."""
    objects = [annotation for annotation in truth["annotations"] if not annotation["iscrowd"]]
    present = {annotation["category_id"] for annotation in objects}
    values: dict[str, float | None] = dict.fromkeys(SUMMARY_PLACES, 0.0 if present else None)
    for name, (low, high) in AREA_RANGES.items():
        if not any(low <= annotation["area"] <= high for annotation in objects):
            values[name] = None
    per_class = {name: dict.fromkeys(("AP", "AP50"), 0.0 if key in present else None) for key, name in names.items()}
    return {**values, "per_class": per_class}


def _mean(precision: NDArray[np.float64]) -> float | None:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None


def _known(figure: float) -> float | None:
    return None if figure < 0 else float(figure)


def _silent(*_: object) -> None:
    """COCOeval prints its table; ours is printed by the command."""
