"""A model with planted outlier channels: plain quantization breaks it, accuracy-aware quantization repairs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.numpy_helper
import pytest
from onnx import ModelProto

from rs4d_edge.bundle import open_bundle, sha256_of
from rs4d_edge.calibration.accuracy import AccuracyGoal
from rs4d_edge.calibration.calibration_set import CalibrationSet
from rs4d_edge.calibration.sensitivity import SensitivityRequest
from rs4d_edge.evaluation.coco import evaluate
from rs4d_edge.export import pipeline
from rs4d_edge.export.quantized_model import QuantizationPlan
from rs4d_edge.export.recipes import Precision, Recipe, Target
from rs4d_edge.export.sensitivity import WORST, SensitivityReport
from rs4d_edge.predictor import Predictor
from rs4d_edge.quantization_record import QuantizationRecord
from rs4d_edge.reference.detector import RS4D
from tests.export.conftest import SIZE_HW

MAX_DROP = (
    0.5  # the truth below is what the float model sees: int8 of random weights, even without outliers, loses much
)
LARGE = np.float32(300)
PLANTED = ("backbone.stem.stride4.1.1/Conv", "backbone.stem.stride8.0.1/Conv", "neck.lateral4.1/Conv")


def plant_outliers(graph: ModelProto) -> ModelProto:
    """Make a channel of the stem's first map larger, and its readers' weights as much smaller: the same function."""
    planted = ModelProto()
    planted.CopyFrom(graph)
    held = {each.name: each for each in planted.graph.initializer}
    maker, *readers = (next(node for node in planted.graph.node if node.name == name) for name in PLANTED)
    for name in maker.input[1:3]:
        value = onnx.numpy_helper.to_array(held[name]).copy()
        value[0] *= LARGE
        held[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
    for reader in readers:
        value = onnx.numpy_helper.to_array(held[reader.input[1]]).copy()
        value[:, 0] /= LARGE
        held[reader.input[1]].CopyFrom(onnx.numpy_helper.from_array(value, reader.input[1]))
    return planted


def check_report(page: Path, record: QuantizationRecord, plain_ap: float) -> None:
    """It tells of the model with all layers quantized, with the search that came after."""
    report = SensitivityReport.model_validate_json(page.with_suffix(".json").read_text())
    accuracy = record.accuracy
    assert accuracy is not None and report.accuracy == accuracy
    restored = {name for step in accuracy.steps[2:] for name in step.restored}
    assert {layer.name for layer in report.layers} == restored
    assert (report.images, report.float_ap) == (accuracy.images, accuracy.float_ap)
    assert report.plain_ap == pytest.approx(plain_ap)
    effects = {layer.name: layer.ap_effect for layer in report.layers if layer.ap_effect is not None}
    assert set(effects) == {layer.name for layer in report.by_result()[:WORST]}
    alone = {step.restored: step.mask_ap for step in accuracy.steps if step.why.startswith("effect of")}
    for layer in report.layers:
        if layer.name in effects:
            assert effects[layer.name] == pytest.approx(alone[layer.group] - plain_ap)
    timed = [step.latency_ratio is not None for step in accuracy.steps]
    assert timed == [not step.why.startswith("effect of") for step in accuracy.steps]
    assert 'id="plot-latency"' in page.read_text()


@pytest.mark.parametrize("target", [Target.ONNX, pytest.param(Target.CPU, marks=pytest.mark.slow)])
def test_planted_outliers_break_plain_quantization_and_are_found(
    target: Target,
    detector: RS4D,
    translated: ModelProto,
    val_json: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if target is Target.CPU:
        pytest.importorskip("nncf")
    planted = plant_outliers(translated)
    monkeypatch.setattr(pipeline, "translate", lambda model, batch: planted)
    # The gate is for models as they are trained. Here what plain quantization does to a model is to be seen.
    monkeypatch.setattr("rs4d_edge.export.parity.Comparison.require", lambda comparison: None)
    images = val_json.parent / "images"
    recipe = Recipe(target=target, precision=Precision.INT8, image_size_hw=SIZE_HW)
    frames = CalibrationSet("scenes", tuple(sorted(images.iterdir())))

    def export(name: str, goal: AccuracyGoal | None) -> float:
        request = SensitivityRequest(tmp_path / "report.html", goal)
        plan = QuantizationPlan(frames, cache=tmp_path / "cache", goal=goal, sensitivity=request if goal else None)
        pipeline.export_bundle(detector, recipe, tmp_path / name, plan=plan, threads=1)
        with Predictor(tmp_path / name, threads=1) as predictor:
            return float(evaluate(predictor, val_json, images)["segm"]["AP"])

    plain = export("plain", None)
    repaired = export("repaired", AccuracyGoal(val_json, MAX_DROP))
    record = open_bundle(tmp_path / "repaired").manifest.quantization
    assert record is not None and record.accuracy is not None
    accuracy = record.accuracy
    assert accuracy.float_ap > 0.9, "planting changed the float model"
    assert plain < accuracy.float_ap - MAX_DROP, "plain quantization is good enough: nothing to repair"
    assert accuracy.met and repaired >= accuracy.float_ap - MAX_DROP
    assert repaired == pytest.approx(accuracy.int8_ap)
    assert set(PLANTED[1:]) <= set(record.high_precision)
    assert len(record.quantized) > len(record.high_precision)
    assert (accuracy.data, accuracy.images) == (sha256_of(val_json), 6)
    steps = {step.why: step for step in accuracy.steps}
    assert steps["all layers quantized"].mask_ap == pytest.approx(plain)
    check_report(tmp_path / "report.html", record, plain)
    first = next(step for why, step in steps.items() if "is number 1 by effect" in why)
    assert set(PLANTED[1:]) <= set(first.restored)
