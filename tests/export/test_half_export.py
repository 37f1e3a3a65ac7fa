"""fp16 bundles from start to end, with an overflow planted into the weights, and what is refused on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import onnx
import pytest
from onnx import ModelProto, TensorProto

from rs4d_edge.bundle import open_bundle
from rs4d_edge.calibration.accuracy import AccuracyGoal
from rs4d_edge.calibration.calibration_set import CalibrationSet
from rs4d_edge.calibration.fp32_islands import LIMIT
from rs4d_edge.calibration.frames import scene_frames
from rs4d_edge.errors import InputError, ParityError
from rs4d_edge.export import half_model, pipeline
from rs4d_edge.export.half_model import measured
from rs4d_edge.export.pipeline import export_bundle
from rs4d_edge.export.quantized_model import QuantizationPlan
from rs4d_edge.export.recipes import Precision, Recipe, Target
from rs4d_edge.export.result_tables import range_rows
from rs4d_edge.reference.detector import RS4D
from tests.export.conftest import SIZE_HW
from tests.export.test_pipeline import perturb

# Two layers with a ReLU between them: as much smaller as the first is made, the second is made larger.
FIRST, SECOND = "backbone.stem.stride4.0.0.weight", "backbone.stem.stride4.1.0.weight"
LARGE = 2.0**17
ISLANDS = ["backbone.stem.stride4.0.1/Conv", "backbone.stem.stride4.0.2/Relu", "backbone.stem.stride4.1.1/Conv"]


@pytest.fixture
def plan(tmp_path: Path) -> QuantizationPlan:
    """Three drawn scenes as files."""
    folder = tmp_path / "calibration"
    folder.mkdir()
    for number, frame in enumerate(scene_frames(3, SIZE_HW)):
        assert cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return QuantizationPlan(CalibrationSet("scenes", tuple(sorted(folder.iterdir()))))


@pytest.fixture
def once(translated: ModelProto, monkeypatch: pytest.MonkeyPatch) -> ModelProto:
    """The shared translation, free to be changed, in place of a new one."""
    copied = ModelProto()
    copied.CopyFrom(translated)
    monkeypatch.setattr(pipeline, "translate", lambda model, batch: copied)
    return copied


def plant_overflow(graph: ModelProto) -> None:
    """The same numbers at the end, by way of some that fp16 cannot hold."""
    for name, factor in ((FIRST, LARGE), (f"{FIRST}_bias", LARGE), (SECOND, 1 / LARGE)):
        perturb(graph, name, factor)


def recipe(target: Target, precision: Precision = Precision.FP16) -> Recipe:
    return Recipe(target=target, precision=precision, image_size_hw=SIZE_HW)


@pytest.mark.parametrize("target", [Target.ONNX, Target.CPU])
def test_fp16_passes_its_gate_at_half_the_size(
    target: Target, detector: RS4D, once: ModelProto, plan: QuantizationPlan, tmp_path: Path
) -> None:
    pytest.importorskip(target.runtime)
    export_bundle(detector, recipe(target, Precision.FP32), tmp_path / "fp32", threads=1)
    result = export_bundle(detector, recipe(target), tmp_path / "fp16", threads=1, plan=plan)
    manifest = open_bundle(tmp_path / "fp16").manifest
    record = manifest.ranges
    assert record is not None and record == result.ranges and manifest.precision == "fp16"
    assert (record.source, record.frames, record.limit, record.islands) == ("scenes", 3, LIMIT, ())
    assert manifest.quantization is None and "quantization" not in json.loads(manifest_text(tmp_path / "fp16"))
    assert 0 < record.largest["stem.0"] < 100 and "boxes" not in record.largest  # which are never in fp16
    worst = max(tensor.max_abs_diff / tensor.tolerance for tensor in manifest.parity.tensors)
    assert worst > 0.02, "nothing was rounded: this is fp32"
    weights = {Target.ONNX: "model.onnx", Target.CPU: "model.bin"}[target]
    sizes = [(tmp_path / bundle / weights).stat().st_size for bundle in ("fp16", "fp32")]
    assert sizes[0] < 0.6 * sizes[1]
    assert range_rows(record)[1] == ("in fp32, above 1.638e+04", "nothing more than always")


def test_a_planted_overflow_becomes_an_island_in_the_bundle(
    detector: RS4D, once: ModelProto, plan: QuantizationPlan, tmp_path: Path
) -> None:
    plant_overflow(once)
    export_bundle(detector, recipe(Target.ONNX), tmp_path / "bundle", threads=1, plan=plan)
    record = open_bundle(tmp_path / "bundle").manifest.ranges
    assert record is not None and [island.node for island in record.islands] == ISLANDS
    assert all(island.largest > 65504 for island in record.islands)
    assert set(ISLANDS[:2]).isdisjoint(record.largest) and max(record.largest.values()) < LIMIT
    types = {held.name: held.data_type for held in onnx.load(tmp_path / "bundle" / "model.onnx").graph.initializer}
    assert types[FIRST] == types[SECOND] == TensorProto.FLOAT
    assert "backbone.stem.stride8.0.0.weight" not in types
    assert types["backbone.stem.stride8.0.0.weight/fp16"] == TensorProto.FLOAT16
    name, text = range_rows(record)[1]
    assert name.startswith("in fp32") and all(node in text for node in ISLANDS)


def test_a_wrong_weight_fails_the_gate(
    detector: RS4D, once: ModelProto, plan: QuantizationPlan, tmp_path: Path
) -> None:
    perturb(once, "rpn_head.rpn_cls.weight", 1.05)
    with pytest.raises(ParityError, match=r"first result that departs is rpn_cls\.0"):
        export_bundle(detector, recipe(Target.ONNX), tmp_path / "bundle", threads=1, plan=plan)
    assert not (tmp_path / "bundle").exists()


def test_bf16_has_ranges_and_no_islands(
    once: ModelProto, plan: QuantizationPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_overflow(once)
    record = measured(once, recipe(Target.CPU, Precision.BF16), plan, tmp_path)
    assert record.islands == () and max(record.largest.values()) > 65504
    monkeypatch.setattr(half_model, "to_half", lambda *_: pytest.fail("bf16 keeps its graph"))
    folders = tmp_path / "model", tmp_path / "features"
    for folder in folders:
        folder.mkdir()
    pytest.importorskip("openvino")
    written = half_model.write_measured(once, recipe(Target.CPU, Precision.BF16), None, plan, folders)  # type: ignore[arg-type]
    assert written.ranges == record and written.model_path.is_file()


@pytest.mark.parametrize(
    "changes",
    [{"cache": Path("cache")}, {"goal": AccuracyGoal(Path("val.json"), 0.01)}, {"high_precision": ("neck.a",)}],
)
def test_fp16_needs_frames_and_nothing_of_int8(
    changes: dict[str, Any], detector: RS4D, plan: QuantizationPlan, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--calib"):
        export_bundle(detector, recipe(Target.ONNX), tmp_path / "bundle")
    with pytest.raises(InputError, match="fp16 takes --calib alone"):
        export_bundle(detector, recipe(Target.ONNX), tmp_path / "bundle", plan=QuantizationPlan(plan.frames, **changes))
    assert not (tmp_path / "bundle").exists()


def manifest_text(bundle: Path) -> str:
    return (bundle / "manifest.json").read_text(encoding="utf-8")
