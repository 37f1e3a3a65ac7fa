"""int8 layers in a strongly typed fp16 graph: what stands around them, which scales they have, and that it is built."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from onnx import ModelProto, TensorProto

from rs4d_edge.bundle import open_bundle
from rs4d_edge.calibration.accuracy import AccuracyGoal
from rs4d_edge.calibration.calibration_set import CalibrationSet
from rs4d_edge.calibration.fp32_islands import LIMIT, overflowing
from rs4d_edge.calibration.int8_scales import half_scale
from rs4d_edge.calibration.layer_tensors import readers_of
from rs4d_edge.calibration.layers import WEIGHTED
from rs4d_edge.calibration.qdq import insert_qdq
from rs4d_edge.calibration.sensitivity import SensitivityRequest
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.calibration.tensor_statistics import TensorStatistics
from rs4d_edge.errors import InputError, ParityError
from rs4d_edge.export import pipeline
from rs4d_edge.export.command import make_recipe
from rs4d_edge.export.half_precision import to_half
from rs4d_edge.export.pipeline import export_bundle
from rs4d_edge.export.quantized_half import ranges_with_roundings
from rs4d_edge.export.quantized_model import QuantizationPlan, QuantizedModel
from rs4d_edge.export.recipes import Precision, Recipe, ScanForm, Target
from rs4d_edge.export.tolerances import TOLERANCES
from rs4d_edge.reference.config import HeadType
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.runtimes.table import open_runtime
from tests.calibration import test_qdq
from tests.export.conftest import SIZE_HW, scene_files
from tests.export.test_half_precision import check_types
from tests.export.test_pipeline import perturb

SETTINGS = QuantizationSettings(signed=True, half_scales=True)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> CalibrationSet:
    """The golden frames as files."""
    return scene_files(tmp_path_factory.mktemp("calibration"))


@pytest.fixture
def once(translated: ModelProto, monkeypatch: pytest.MonkeyPatch) -> ModelProto:
    """The shared translation, free to be changed, in place of a new one."""
    copied = ModelProto()
    copied.CopyFrom(translated)
    monkeypatch.setattr(pipeline, "translate", lambda model, batch: copied)
    return copied


def recipe(scan: ScanForm = ScanForm.PLAIN) -> Recipe:
    return Recipe(
        target=Target.RTX,
        precision=Precision.INT8_FP16,
        image_size_hw=SIZE_HW,
        compute_capabilities=("8.6",),
        scan=scan,
    )


def small_model(largest: float = 3.0, weights: float = 1.0) -> ModelProto:
    """Four int8 layers; `r` was seen to reach `largest`, and the weights of two are `weights` times as large."""
    model = test_qdq.make_model()
    for held in model.graph.initializer:
        if held.name in ("wb", "wd", "bd"):
            value = onnx.numpy_helper.to_array(held) * np.float32(weights)
            held.CopyFrom(onnx.numpy_helper.from_array(value, held.name))
    channels = {"x": 3, "r": 6, "b": 4, "rows": 4, "matrix": 8}
    seen = dict.fromkeys(channels, 3.0) | {"r": largest}
    statistics = {
        name: TensorStatistics(seen[name], True, np.ones(count, np.float32), np.zeros(count, np.float32))
        for name, count in channels.items()
    }
    return insert_qdq(model, test_qdq.LAYERS, statistics, SETTINGS)


def int8_layers(model: ModelProto) -> dict[str, set[int]]:
    """Convolutions and products with dequantized weights, each with the types of what they read.

    Asserts that their input is dequantized, too, and that no Cast stands behind any int8 values.
    """
    types = check_types(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = readers_of(model)
    found = {}
    for node in model.graph.node:
        operators = [makers[name].op_type for name in node.input[:2] if name in makers]
        if node.op_type in WEIGHTED and len(operators) == 2 and operators[1] == "DequantizeLinear":
            assert operators[0] == "DequantizeLinear", node.name
            found[node.name] = {types[name] for name in node.input}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            assert "Cast" not in {each.op_type for each in readers.get(node.output[0], [])}, node.name
    return found


def test_scales_are_numbers_of_fp16_that_cut_nothing() -> None:
    exact = np.geomspace(1e-9, 6e4, 4000).astype(np.float32)
    scales = half_scale(exact)
    assert np.array_equal(scales.astype(np.float16).astype(np.float32), scales)
    assert (scales >= exact).all() and (scales < exact * 1.001)[exact > 6.2e-5].all()
    assert scales[0] == np.float32(2.0**-24)
    assert np.array_equal(half_scale(scales), scales)
    assert half_scale(np.array(7e4, np.float32)) == np.float32(7e4)  # `to_half` leaves it in fp32


@pytest.mark.parametrize("weights", [1.0, 1e-3])
def test_every_layer_is_fp16_between_int8_however_small_its_weights(weights: float, tmp_path: Path) -> None:
    quantized = small_model(weights=weights)
    half = to_half(quantized, ())
    assert int8_layers(half) == {name: {TensorProto.FLOAT16} for name in test_qdq.LAYERS}
    results = []
    for precision, each in (("int8", quantized), ("int8-fp16", half)):
        onnx.save(each, tmp_path / f"{precision}.onnx")
        runtime = open_runtime("onnxruntime", tmp_path / f"{precision}.onnx", threads=1, precision=precision)
        results.append(runtime.run(test_qdq.feeds(5))["y"])
        runtime.close()
    assert 0 < np.abs(results[1] - results[0]).max() < 0.05 * np.abs(results[0]).max()  # some round to another step


def test_a_layer_in_fp32_dequantizes_for_itself() -> None:
    quantized = small_model()
    extra = quantized.graph.node.add()
    extra.CopyFrom(next(node for node in quantized.graph.node if node.name == "b/Conv"))
    extra.name, extra.output[0] = "b/Conv_1", "again"
    quantized.graph.value_info.add().CopyFrom(next(each for each in quantized.graph.value_info if each.name == "b"))
    quantized.graph.value_info[-1].name = "again"
    half = to_half(quantized, {"b/Conv"})
    layers = int8_layers(half)
    assert layers["b/Conv"] == {TensorProto.FLOAT} and layers["b/Conv_1"] == {TensorProto.FLOAT16}
    names = [node.name for node in half.graph.node]
    assert len(set(names)) == len(names) and {"r/DequantizeLinear", "r/DequantizeLinear/fp16"} <= set(names)


def test_what_overflows_takes_its_int8_layers_into_fp32() -> None:
    quantized = small_model(largest=2 * LIMIT)
    ranges = ranges_with_roundings(quantized, {"x": 3.0, "a": 9.0, "r": 2 * LIMIT, "b": 8.0, "matrix": 7.0})
    assert ranges["r/exact"] == 2 * LIMIT and ranges["b/exact"] == 8 and ranges["wa/rounded"] < 5
    assert ranges["c/MatMul/smooth"] == pytest.approx(127 * scale_of(quantized, "c/MatMul/smooth/rounded"))
    islands = {island.node for island in overflowing(quantized, ranges)}
    assert {"r/Relu", "r/int8/QuantizeLinear", "r/DequantizeLinear", "b/Conv"} <= islands and "a/Conv" not in islands
    layers = int8_layers(to_half(quantized, islands))
    assert (layers["a/Conv"], layers["b/Conv"]) == ({TensorProto.FLOAT16}, {TensorProto.FLOAT})


def scale_of(model: ModelProto, tensor: str) -> float:
    held = next(each for each in model.graph.initializer if each.name == f"{tensor}/scale")
    return float(onnx.numpy_helper.to_array(held))


def test_a_model_is_calibrated_once_for_any_choice_of_layers(
    detector: RS4D, once: ModelProto, calibration: CalibrationSet, tmp_path: Path
) -> None:
    plan = QuantizationPlan(calibration, cache=tmp_path / "cache")
    notes: list[str] = []

    def calibrated() -> QuantizedModel:
        weights = pipeline.weights_record(detector)
        return QuantizedModel(once, recipe(), detector.config, weights, plan, tmp_path, notes.append)

    model = calibrated()
    paths = tmp_path / "model.onnx", tmp_path / "features.onnx"
    written = model.write(*paths)
    layers = int8_layers(onnx.load(paths[1]))
    assert written.quantization is not None and set(layers) == set(written.quantization.quantized) and len(layers) > 15
    assert set(map(frozenset, layers.values())) == {frozenset({TensorProto.FLOAT16})}
    assert (written.quantization.rest, written.quantization.identity.settings["half_scales"]) == ("fp16", True)
    ranges = written.ranges
    assert ranges is not None and (ranges.frames, ranges.limit, ranges.islands) == (4, LIMIT, ())
    assert 0 < ranges.largest["stem.0"] < 100 and not any("/rounded" in name for name in ranges.largest)
    calibrated()
    assert notes[1] == "take the cached calibration: nothing changed since the cached calibration"
    restored = model.write(*paths, model.layers)
    assert int8_layers(onnx.load(paths[1])) == {} and restored.ranges == ranges


@pytest.mark.parametrize(
    ("head", "scan"),
    [
        pytest.param(*each, marks=() if each == (HeadType.BBOX, ScanForm.PLUGIN) else pytest.mark.slow)
        for each in itertools.product(HeadType, (ScanForm.PLAIN, ScanForm.PLUGIN))
    ],
)
def test_an_engine_is_built_from_what_passed_the_gate(
    head: HeadType,
    scan: ScanForm,
    make_detector: Callable[[HeadType], RS4D],
    once: ModelProto,
    calibration: CalibrationSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tensorrt_rtx")
    if head is not HeadType.BBOX:
        monkeypatch.undo()
    bundle = tmp_path / "bundle"
    result = export_bundle(make_detector(head), recipe(scan), bundle, plan=QuantizationPlan(calibration), threads=1)
    manifest = open_bundle(bundle).manifest
    assert manifest.precision == "int8-fp16" and [each.compute_capability for each in result.engines] == ["8.6"]
    assert manifest.quantization == result.quantization and manifest.ranges == result.ranges
    worst = max(tensor.max_abs_diff / tensor.tolerance for tensor in manifest.parity.tensors)
    assert worst > 0.005, "nothing was quantized"
    model = onnx.load(bundle / "model.onnx")
    assert [each.version for each in model.opset_import if not each.domain] == [manifest.options["opset"]] == [19]
    zeros = [held.data_type for held in model.graph.initializer if held.name.endswith("/zero")]
    assert zeros and set(zeros) == {TensorProto.INT8}


def test_a_spoiled_layer_fails_the_gate(
    detector: RS4D, once: ModelProto, calibration: CalibrationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "check_tensorrt", lambda: None)
    perturb(once, "rpn_head.rpn_cls.weight", -1.0)
    with pytest.raises(ParityError, match=r"first result that departs is rpn_cls\.0"):
        export_bundle(detector, recipe(), tmp_path / "bundle", plan=QuantizationPlan(calibration), threads=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_accuracy_is_kept_and_noise_is_reported(
    detector: RS4D, once: ModelProto, calibration: CalibrationSet, val_json: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    goal = AccuracyGoal(val_json, 0.9)
    plan = QuantizationPlan(calibration, goal=goal, sensitivity=SensitivityRequest(tmp_path / "report.html", None))
    result = export_bundle(detector, recipe(), tmp_path / "bundle", plan=plan, threads=1)
    assert result.quantization is not None and result.quantization.accuracy is not None
    accuracy = result.quantization.accuracy
    assert accuracy.met and accuracy.float_ap > 0.5  # fp16 finds what the float model found
    assert all(step.latency_ratio is None for step in accuracy.steps)
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("target", [Target.ONNX, Target.CPU])
def test_it_is_for_engines_alone(target: Target) -> None:
    with pytest.raises(InputError, match=r"no precision 'int8-fp16', only fp32.*in fp32; use --precision int8"):
        make_recipe(target, Precision.INT8_FP16, SIZE_HW, 1)


def test_its_limits_are_no_closer_than_those_of_int8_and_of_fp16() -> None:
    both: dict[str, Any] = TOLERANCES[Precision.INT8_FP16].model_dump()
    for part in (Precision.INT8, Precision.FP16):
        for name, limit in TOLERANCES[part].model_dump().items():
            closer = both[name] > limit if name.endswith("_iou") else both[name] < limit
            assert not closer, name
