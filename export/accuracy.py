"""Accuracy-aware quantization: mask AP through the target's own runtime decides which layers stay int8."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rs4d_edge.bundle import sha256_of
from rs4d_edge.calibration.accuracy import AccuracyGoal, Latency, Note, ValidationSet, choose_layers
from rs4d_edge.contract import ModelContract
from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.export.quantized_model import QuantizedModel
from rs4d_edge.export.recipes import Recipe
from rs4d_edge.manifest import AccuracyOnData
from rs4d_edge.predictor import Predictor
from rs4d_edge.quantization_record import AccuracyRecord
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.runtimes.table import open_runtime


class AccuracyRepair(NamedTuple):
    """The layers to restore, and how they were found."""

    restored: frozenset[str]
    record: AccuracyRecord


class AccuracyMeter:
    """Mask AP of a quantized model with any layers restored, each choice measured once.

    `images` is the number of annotated images, known after the first measurement.
    """

    def __init__(
        self,
        model: QuantizedModel,
        recipe: Recipe,
        contract: ModelContract,
        data: ValidationSet,
        paths: tuple[Path, Path],
        threads: int | None,
    ) -> None:
        """`paths` are for the model and its features, written anew for each measurement.

        RuntimeUnavailable without the package that measures.
        """
        with _measuring_package():
            from rs4d_edge.evaluation.coco import evaluate
        self.images = 0
        self._model, self._recipe, self._contract, self._data = model, recipe, contract, data
        self._paths, self._threads, self._evaluate = paths, threads, evaluate
        self._known: dict[frozenset[str], float] = {}

    def __call__(self, restored: frozenset[str]) -> float:
        """Mask AP with the layers `restored` in high precision. DataError for annotations that cannot be used."""
        if restored not in self._known:
            self._model.write(*self._paths, restored)
            runtime = open_runtime(
                self._recipe.target.gate_runtime,
                self._paths[0],
                threads=self._threads,
                precision=self._recipe.precision.value,
            )
            with Predictor.over(runtime, self._contract) as predictor:
                figures = self._evaluate(predictor, self._data.annotations, self._data.images_dir)
            self.images = int(figures["images"])
            self._known[restored] = float(figures["segm"]["AP"])
        return self._known[restored]


def reference_accuracy(model: RS4D, data: ValidationSet) -> AccuracyOnData:
    """What the reference scores, for the bundle's manifest.

    DataError for annotations that cannot be used, RuntimeUnavailable without the package that measures.
    """
    with _measuring_package():
        from rs4d_edge.evaluation.against_reference import accuracy_of_reference
    with Predictor(model) as predictor:
        return accuracy_of_reference(predictor, data.annotations, data.images_dir)


@contextmanager
def _measuring_package() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise RuntimeUnavailable(
            f'--val needs the package {error.name}, which is not installed; run: pip install "rs4d-edge[quantize]"'
        ) from error


def repair_accuracy(
    groups: list[frozenset[str]], meter: AccuracyMeter, goal: AccuracyGoal, note: Note, latency: Latency | None = None
) -> AccuracyRepair:
    """Restore `groups` of layers until mask AP is within the goal, or answer with the best found."""
    found = choose_layers(groups, meter, goal.max_drop, note, latency)
    record = AccuracyRecord(
        data=sha256_of(goal.annotations),
        images=meter.images,
        max_drop=goal.max_drop,
        float_ap=found.float_ap,
        int8_ap=found.mask_ap,
        met=found.met,
        steps=found.steps,
    )
    return AccuracyRepair(found.restored, record)
