"""Accuracy-aware quantization: mask AP through the target's own runtime decides which layers stay int8."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rs4d_edge.bundle import sha256_of
from rs4d_edge.calibration.accuracy import AccuracyGoal, Note, choose_layers
from rs4d_edge.contract import ModelContract
from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.export.quantized_model import QuantizedModel
from rs4d_edge.export.recipes import Recipe
from rs4d_edge.predictor import Predictor
from rs4d_edge.quantization_record import AccuracyRecord
from rs4d_edge.runtimes.table import open_runtime


class AccuracyRepair(NamedTuple):
    """The layers to restore, and how they were found."""

    restored: frozenset[str]
    record: AccuracyRecord


def repair_accuracy(
    model: QuantizedModel,
    recipe: Recipe,
    contract: ModelContract,
    goal: AccuracyGoal,
    paths: tuple[Path, Path],
    threads: int | None,
    note: Note,
) -> AccuracyRepair:
    """Restore layers of `model` until its mask AP is within the goal, or answer with the best found.

    `paths` are for the model and its features, written anew for each measurement. RuntimeUnavailable without the
    package that measures, DataError for annotations that cannot be used.
    """
    try:
        from rs4d_edge.evaluation.coco import evaluate
    except ModuleNotFoundError as error:
        raise RuntimeUnavailable(
            f'--max-drop needs the package {error.name}, which is not installed; run: pip install "rs4d-edge[quantize]"'
        ) from error
    images = 0

    def measure(restored: frozenset[str]) -> float:
        nonlocal images
        model.write(*paths, restored)
        runtime = open_runtime(recipe.target.runtime, paths[0], threads=threads, precision=recipe.precision.value)
        with Predictor.over(runtime, contract) as predictor:
            figures = evaluate(predictor, goal.annotations, goal.images_dir)
        images = int(figures["images"])
        return float(figures["segm"]["AP"])

    found = choose_layers(model.groups, measure, goal.max_drop, note)
    record = AccuracyRecord(
        data=sha256_of(goal.annotations),
        images=images,
        max_drop=goal.max_drop,
        float_ap=found.float_ap,
        int8_ap=found.mask_ap,
        met=found.met,
        steps=found.steps,
    )
    return AccuracyRepair(found.restored, record)
