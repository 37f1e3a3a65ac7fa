"""A bundle's average precision on a data set, beside what its reference scored there when it was exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rs4d_edge.bundle import sha256_of
from rs4d_edge.evaluation.bootstrap import Interval, bootstrap_intervals
from rs4d_edge.evaluation.coco import evaluate, find_objects, score_results
from rs4d_edge.manifest import AccuracyOnData, AveragePrecision
from rs4d_edge.predictor import Predictor

Progress = Callable[[str, int, int], None]


class KindFigures(NamedTuple):
    """AP and AP50 of boxes or masks here, the 95 % interval of AP, and the reference's figures if they are known."""

    ap: float
    ap50: float
    interval: Interval
    reference: AveragePrecision | None

    @property
    def difference(self) -> float | None:
        """AP here less the reference's; None where that is not known."""
        return None if self.reference is None else self.ap - self.reference.ap


class OnData(NamedTuple):
    """`boxes` and `masks`; `why_not` says why there is nothing of the reference to compare with."""

    images: int
    detections: int
    boxes: KindFigures
    masks: KindFigures
    why_not: str | None

    def record(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "images": self.images,
            "detections": self.detections,
            "not_compared": self.why_not,
            **{name: _record(figures) for name, figures in (("boxes", self.boxes), ("masks", self.masks))},
        }


def measure_against_reference(
    predictor: Predictor,
    annotations: Path,
    images_dir: Path,
    *,
    draws: int = 100,
    progress: Progress = lambda what, done, total: None,
) -> OnData:
    """Find objects in every image of `annotations`, and put the figures beside those of the bundle's manifest."""
    truth, results = find_objects(
        predictor, annotations, images_dir, lambda done, total: progress("finding objects", done, total)
    )
    figures = score_results(truth, results)
    intervals = bootstrap_intervals(
        truth, results, draws=draws, progress=lambda done, total: progress("bootstrap", done, total)
    )
    known = predictor.manifest.accuracy if predictor.manifest is not None else None
    why_not = _why_not(known, annotations)
    reference = None if why_not else known
    return OnData(
        len(truth["images"]),
        len(results),
        _figures(figures["bbox"], intervals["bbox"], reference.boxes if reference else None),
        _figures(figures["segm"], intervals["segm"], reference.masks if reference else None),
        why_not,
    )


def accuracy_of_reference(predictor: Predictor, annotations: Path, images_dir: Path) -> AccuracyOnData:
    """What a bundle's manifest records of its reference, over which `predictor` was opened."""
    figures = evaluate(predictor, annotations, images_dir)
    boxes, masks = (
        AveragePrecision(ap=figures[kind]["AP"] or 0.0, ap50=figures[kind]["AP50"] or 0.0) for kind in ("bbox", "segm")
    )
    return AccuracyOnData(
        annotations=annotations.name,
        annotations_sha256=sha256_of(annotations),
        images=figures["images"],
        boxes=boxes,
        masks=masks,
    )


def _why_not(known: AccuracyOnData | None, annotations: Path) -> str | None:
    if known is None:
        return "the bundle was exported without --val, so that nothing is recorded of its reference"
    if known.annotations_sha256 != sha256_of(annotations):
        return f"its reference was measured on another file, {known.annotations} with {known.images} images"
    return None


def _figures(found: dict[str, Any], interval: Interval, reference: AveragePrecision | None) -> KindFigures:
    return KindFigures(found["AP"] or 0.0, found["AP50"] or 0.0, interval, reference)


def _record(figures: KindFigures) -> dict[str, Any]:
    reference = None if figures.reference is None else figures.reference.model_dump()
    interval = list(figures.interval)
    return {
        "ap": figures.ap,
        "ap50": figures.ap50,
        "ap_interval_95": interval,
        "reference": reference,
        "difference": figures.difference,
    }
