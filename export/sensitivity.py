"""Which quantized layers suffer most: signal-to-quantization-noise of each, and the AP effect of the worst."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from rs4d_edge.calibration.calibration_set import CalibrationSet, Feeds
from rs4d_edge.calibration.sensitivity import PROPOSALS, NoisePower, ProbedModel
from rs4d_edge.export.recipes import Precision, Recipe
from rs4d_edge.matching import pairwise_iou
from rs4d_edge.quantization_record import AccuracyRecord
from rs4d_edge.runtimes.contract import Runtime
from rs4d_edge.runtimes.table import open_runtime

Array = npt.NDArray[Any]
NOISE_FRAMES = 16
WORST = 10
PAIRED_IOU = 0.5  # of two proposals that are taken for the same
BEHIND_SELECTION = "roi_head."  # layers whose rows are proposals, which int8 may give in another order


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LayerSensitivity(_Record):
    """One quantized layer; ratios in dB, None where there was nothing but zeros.

    `weights_db`: of its weights. `input_db`: of its input, the noise being the rounding of this input alone.
    `result_db`: of its output, with all that was rounded ahead of it, against the float model. `paired`: for layers
    that work on proposals, the share of rows that could be compared, because both models proposed the same box.
    `group`: what is restored along with it. `ap_effect`: mask AP with the group in high precision, less that without;
    None if it was not measured.
    """

    name: str
    weights_db: float | None
    input_db: float | None
    result_db: float | None
    paired: float | None = None
    group: tuple[str, ...] = ()
    ap_effect: float | None = None


class SensitivityReport(_Record):
    """All quantized layers, in the order of computation.

    `frames` calibration frames of `source` gave the ratios. `float_ap` and `plain_ap` are mask AP without int8 and with
    all layers quantized, on `images` images; None if it was not measured. `accuracy` is the accuracy-aware search, if
    there was one.
    """

    model: str
    target: str
    precision: str
    source: str
    frames: int
    layers: tuple[LayerSensitivity, ...]
    images: int | None = None
    float_ap: float | None = None
    plain_ap: float | None = None
    accuracy: AccuracyRecord | None = None

    def by_result(self) -> list[LayerSensitivity]:
        """The layers, the noisiest result first."""
        return worst_first(self.layers)


def worst_first(layers: Sequence[LayerSensitivity]) -> list[LayerSensitivity]:
    """Sorted by the ratio of their results; those without one last."""
    return sorted(layers, key=lambda layer: (layer.result_db is None, layer.result_db))


def noise_frames(frames: CalibrationSet) -> CalibrationSet:
    """At most 16 of `frames`, at even distances."""
    places = sorted({round(place) for place in np.linspace(0, len(frames) - 1, min(NOISE_FRAMES, len(frames)))})
    return CalibrationSet(frames.source, tuple(frames.paths[place] for place in places))


def measure_noise(
    probed: ProbedModel, recipe: Recipe, feeds: Iterable[Feeds], threads: int | None
) -> tuple[LayerSensitivity, ...]:
    """Run the probed models on `feeds`, which are iterated twice, in the target's runtime; one entry for each layer."""

    def opened(path: Path, precision: Precision) -> contextlib.closing[Runtime]:
        return contextlib.closing(
            open_runtime(recipe.target.gate_runtime, path, threads=threads, precision=precision.value)
        )

    inputs = {probe.layer: NoisePower() for probe in probed.layers}
    with opened(probed.roundings_path, recipe.precision) as roundings:
        for feed in feeds:
            shown = roundings.run(feed)
            for probe in probed.layers:
                inputs[probe.layer].add(shown[probe.source], shown[probe.rounded])
    results = {probe.layer: _ResultNoise(probe.layer) for probe in probed.layers}
    with (
        opened(probed.float_path, Precision.FP32) as exact,
        opened(probed.quantized_path, recipe.precision) as quantized,
    ):
        for feed in feeds:
            expected, found = exact.run(feed), quantized.run(feed)
            pairs = paired_rows(expected, found) if PROPOSALS in expected else None
            for probe in probed.layers:
                results[probe.layer].add(expected[probe.result], found[probe.result], pairs)
    return tuple(
        LayerSensitivity(
            name=probe.layer,
            weights_db=probe.weights_db,
            input_db=inputs[probe.layer].sqnr_db,
            result_db=results[probe.layer].power.sqnr_db,
            paired=results[probe.layer].paired,
        )
        for probe in probed.layers
    )


def add_effects(
    layers: Sequence[LayerSensitivity],
    groups: Sequence[frozenset[str]],
    measure: Callable[[frozenset[str]], float] | None,
) -> tuple[LayerSensitivity, ...]:
    """The layers with their groups, and for the ten with the noisiest results what `measure` gains by restoring these.

    `measure` gives the mask AP with the layers restored that it is given.
    """
    group_of = {name: group for group in groups for name in group}
    worst = {layer.name for layer in worst_first(layers)[:WORST]} if measure is not None else set()
    completed = []
    for layer in layers:
        group = group_of.get(layer.name, frozenset({layer.name}))
        effect = measure(group) - measure(frozenset()) if measure is not None and layer.name in worst else None
        completed.append(layer.model_copy(update={"group": tuple(sorted(group)), "ap_effect": effect}))
    return tuple(completed)


class RowPairs(NamedTuple):
    """Rows of the same proposals in both models, counted through the batch, and how many rows there are in all."""

    exact: Array
    quantized: Array
    rows: int


def paired_rows(exact: dict[str, Array], quantized: dict[str, Array]) -> RowPairs:
    """Proposals (B, N, 4) of both models that are each other's best match."""
    batch, count = exact[PROPOSALS].shape[:2]
    pairs: tuple[list[Array], list[Array]] = ([], [])
    for image in range(batch):
        overlaps = pairwise_iou(exact[PROPOSALS][image], quantized[PROPOSALS][image])
        partners = overlaps.argmax(axis=1)
        rows = np.arange(count)
        mutual = (overlaps.argmax(axis=0)[partners] == rows) & (overlaps[rows, partners] >= PAIRED_IOU)
        pairs[0].append(rows[mutual] + image * count)
        pairs[1].append(partners[mutual] + image * count)
    return RowPairs(np.concatenate(pairs[0]), np.concatenate(pairs[1]), batch * count)


class _ResultNoise:
    """The noise of one layer's result over all frames."""

    def __init__(self, layer: str) -> None:
        self.power = NoisePower()
        self._by_row = layer.startswith(BEHIND_SELECTION)
        self._paired, self._rows = 0, 0

    @property
    def paired(self) -> float | None:
        """The share of rows that were compared; None where all are."""
        return self._paired / self._rows if self._rows else None

    def add(self, exact: Array, quantized: Array, pairs: RowPairs | None) -> None:
        if self._by_row and pairs is not None:
            rows = exact.reshape(pairs.rows, -1), quantized.reshape(pairs.rows, -1)
            exact, quantized = rows[0][pairs.exact], rows[1][pairs.quantized]
            self._paired += len(pairs.exact)
            self._rows += pairs.rows
        self.power.add(exact, quantized)
