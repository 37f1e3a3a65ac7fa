"""The quantized part of an export: calibrate, keep the accuracy, report what rounding does, write the model."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from onnx import ModelProto

from rs4d_edge.export.accuracy import AccuracyMeter, repair_accuracy
from rs4d_edge.export.graph import only_outputs
from rs4d_edge.export.latency_ratio import FRAMES, LatencyRatio
from rs4d_edge.export.model_files import Written, write_model
from rs4d_edge.export.quantized_model import CalibrationRuns, QuantizationPlan, QuantizedModel
from rs4d_edge.export.recipes import Precision, Recipe
from rs4d_edge.export.sensitivity import SensitivityReport, add_effects, measure_noise, noise_frames
from rs4d_edge.manifest import WeightsRecord
from rs4d_edge.quantization_record import AccuracyRecord
from rs4d_edge.reference.detector import RS4D

Note = Callable[[str], None]


def write_quantized(
    graph: ModelProto,
    recipe: Recipe,
    model: RS4D,
    weights: WeightsRecord,
    plan: QuantizationPlan,
    folders: tuple[Path, Path],
    threads: int | None,
    note: Note,
) -> Written:
    """Write the model into the first of `folders`, and what the export needs besides into the second.

    The sensitivity report, if there is to be one, is written before the export's gate decides: whoever is refused needs
    it most. `graph` is translated from `model`.
    """
    folder, work = folders
    paths = folder / recipe.target.model_file, work / recipe.target.model_file
    quantized = QuantizedModel(graph, recipe, model.config, weights, plan, work, note)
    meter = None
    if plan.validation is not None:
        contract = model.contract.model_copy(update={"batch": recipe.batch})
        meter = AccuracyMeter(quantized, recipe, contract, plan.validation, paths, threads)
    repair = None
    if plan.goal is not None and meter is not None:
        # What stands in for a GPU's engine tells its accuracy, not its speed.
        timed = not recipe.target.for_engines
        latency = _latency(graph, quantized, recipe, plan, paths, threads) if timed else None
        repair = repair_accuracy(quantized.groups, meter, plan.goal, note, latency)
    if plan.sensitivity is not None:
        from rs4d_edge.export.sensitivity_page import write_report

        accuracy = repair.record if repair else None
        report = _sensitivity(quantized, recipe, model.config.name, plan, meter, accuracy, work, threads, note)
        write_report(report, plan.sensitivity.page)
    note("write the model")
    return quantized.write(*paths, repair.restored if repair else (), repair.record if repair else None)


def _latency(
    graph: ModelProto,
    quantized: QuantizedModel,
    recipe: Recipe,
    plan: QuantizationPlan,
    paths: tuple[Path, Path],
    threads: int | None,
) -> LatencyRatio:
    """Against the model as the fp32 export writes it."""
    fp32 = recipe.model_copy(update={"precision": Precision.FP32})
    folder = paths[1].parent / "fp32"
    folder.mkdir()
    reference, _ = write_model(only_outputs(graph), fp32, folder)
    feeds = list(itertools.islice(plan.frames.feeds(recipe.image_size_hw, recipe.batch), FRAMES))
    return LatencyRatio(
        lambda restored: quantized.write(*paths, restored).model_path, reference, recipe, feeds, threads
    )


def _sensitivity(
    quantized: QuantizedModel,
    recipe: Recipe,
    name: str,
    plan: QuantizationPlan,
    meter: AccuracyMeter | None,
    accuracy: AccuracyRecord | None,
    work: Path,
    threads: int | None,
    note: Note,
) -> SensitivityReport:
    """Of the model with all layers quantized, whatever was restored."""
    frames = noise_frames(plan.frames)
    folder = work / "probes"
    folder.mkdir()
    note(f"measure the noise of each layer on {len(frames)} frames")
    layers = measure_noise(quantized.probe(folder), recipe, CalibrationRuns(frames, recipe), threads)
    groups = quantized.groups
    if meter is not None:
        note("measure the AP effect of the layers with the noisiest results")
    layers = add_effects(layers, groups, meter)
    return SensitivityReport(
        model=name,
        target=recipe.target.value,
        precision=recipe.precision.value,
        source=frames.source,
        frames=len(frames),
        layers=layers,
        float_ap=meter(frozenset().union(*groups)) if meter else None,
        plain_ap=meter(frozenset()) if meter else None,
        images=meter.images if meter else None,
        accuracy=accuracy,
    )
