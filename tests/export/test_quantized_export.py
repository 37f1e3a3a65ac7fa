"""int8 bundles from start to end, and what is refused on the way."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch
from onnx import ModelProto

from rs4d_edge.bundle import open_bundle
from rs4d_edge.calibration.calibration_set import CalibrationSet
from rs4d_edge.calibration.frames import scene_frames
from rs4d_edge.calibration.layers import quantizable_layers
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.errors import InputError, ParityError
from rs4d_edge.export import pipeline
from rs4d_edge.export.bisect import compare_features
from rs4d_edge.export.conditional_masks import loop_masks
from rs4d_edge.export.graph import only_outputs
from rs4d_edge.export.model_files import open_as_written
from rs4d_edge.export.pipeline import export_bundle
from rs4d_edge.export.quantized_model import CalibrationRuns, QuantizationPlan, QuantizedModel
from rs4d_edge.export.recipes import Precision, Recipe, Target
from rs4d_edge.export.scan_function import inline_scan
from rs4d_edge.export.sensitivity import measure_noise
from rs4d_edge.matching import compare_detections
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.config import HeadType
from rs4d_edge.reference.detector import RS4D
from tests.export.conftest import SIZE_HW
from tests.export.test_pipeline import perturb

SAMPLES = 8


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> CalibrationSet:
    """Drawn scenes as files, the first of them the golden ones: random weights find little in anything."""
    folder = tmp_path_factory.mktemp("calibration")
    for number, frame in enumerate(scene_frames(SAMPLES, SIZE_HW)):
        assert cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return CalibrationSet(folder.name, tuple(sorted(folder.iterdir())))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of this module leave calibrations for each other: each takes seconds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def once(translated: ModelProto, monkeypatch: pytest.MonkeyPatch) -> ModelProto:
    """The shared translation, free to be changed, in place of a new one."""
    copied = ModelProto()
    copied.CopyFrom(translated)
    monkeypatch.setattr(pipeline, "translate", lambda model, batch: copied)
    return copied


@pytest.fixture(
    params=[
        (Target.CPU, Precision.INT8),
        (Target.ONNX, Precision.INT8),
        pytest.param((Target.CPU, Precision.INT8_BF16), marks=pytest.mark.slow),
    ],
    ids=lambda param: f"{param[0].value}-{param[1].value}",
)
def recipe(request: pytest.FixtureRequest) -> Iterator[Recipe]:
    target, precision = request.param
    if target is Target.CPU:
        pytest.importorskip("nncf")
        pytest.importorskip("openvino")
    if precision is Precision.INT8_BF16:
        import openvino

        from rs4d_edge.runtimes.openvino_runtime import has_bf16

        if not has_bf16(openvino.Core()):
            pytest.skip("this processor has no bf16 instructions")
    yield Recipe(target=target, precision=precision, image_size_hw=SIZE_HW)


def export(model: RS4D, recipe: Recipe, out: Path, **options: Any) -> None:
    export_bundle(model, recipe, out, threads=1, **options)


def test_int8_passes_its_gate_and_says_what_it_was_made_of(
    recipe: Recipe, detector: RS4D, once: ModelProto, calibration: CalibrationSet, cache: Path, tmp_path: Path
) -> None:
    export(detector, recipe, tmp_path / "bundle", plan=QuantizationPlan(calibration, cache=cache))
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.precision == recipe.precision.value
    record = manifest.quantization
    assert record is not None
    assert (record.source, record.frames, record.rest) == (calibration.source, SAMPLES, recipe.precision.rest.value)
    assert record.identity.weights == manifest.weights.sha256
    layers = quantizable_layers(only_outputs(once))
    weights = {node.input[1] for node in once.graph.node if node.name in record.quantized}  # levels share the RPN's
    files = {file.path.partition("/")[0] for file in manifest.files}
    if recipe.target is Target.CPU:
        assert record.identity.tools.keys() == {"nncf", "openvino"}
        assert list(record.quantized) == layers and files == {"model.xml", "model.bin", "golden"}
        assert (tmp_path / "bundle" / "model.xml").read_text().count('element_type="i8"') == len(weights)
    else:
        assert record.identity.tools.keys() == {"onnxruntime", "rs4d-edge"}
        left_out = set(layers) - set(record.quantized)
        assert len(left_out) == 9 and all(re.search(r"rpn_(cls|reg)/|stem\.stride4\.0\.", name) for name in left_out)
        assert files == {"model.onnx", "golden"}
        held = onnx.load(tmp_path / "bundle" / "model.onnx").graph.initializer
        assert sum(each.name.endswith("/int8") for each in held) == len(weights)
    worst = max(tensor.max_abs_diff / tensor.tolerance for tensor in manifest.parity.tensors)
    assert worst > 0.005, "nothing was quantized: this is fp32"
    frame = scene_frames(1, SIZE_HW)[0]
    with Predictor(tmp_path / "bundle", threads=1) as exported, Predictor(detector) as reference:
        assert compare_detections(reference.run(frame), exported.run(frame), match_iou=0.6).matches


@pytest.mark.parametrize("target", [Target.ONNX, pytest.param(Target.CPU, marks=pytest.mark.slow)])
def test_a_spoiled_layer_fails_the_gate_and_leaves_nothing(
    target: Target, detector: RS4D, once: ModelProto, calibration: CalibrationSet, tmp_path: Path
) -> None:
    if target is Target.CPU:
        pytest.importorskip("nncf")
    recipe = Recipe(target=target, precision=Precision.INT8, image_size_hw=SIZE_HW)
    perturb(once, "rpn_head.rpn_cls.weight", -1.0)
    with pytest.raises(ParityError, match=r"first result that departs is rpn_cls\.0"):
        export(detector, recipe, tmp_path / "bundle", plan=QuantizationPlan(calibration))
    assert not list(tmp_path.iterdir())


def test_a_calibration_is_used_again_until_something_changes(
    recipe: Recipe, detector: RS4D, once: ModelProto, calibration: CalibrationSet, cache: Path, tmp_path: Path
) -> None:
    own_cache = tmp_path / "cache"  # for what is not to serve the other tests
    shutil.copytree(cache, own_cache)

    def calibrated(frames: CalibrationSet, **changes: Any) -> str:
        notes: list[str] = []
        plan = QuantizationPlan(frames, cache=own_cache, **changes)
        weights = pipeline.weights_record(detector)
        QuantizedModel(once, recipe, detector.config, weights, plan, tmp_path, notes.append)
        return notes[0]

    calibrated(calibration)
    assert calibrated(calibration).startswith("take the cached calibration")
    with pytest.MonkeyPatch.context() as patch:
        for quantizer in ("quantized_openvino.OpenVINOQuantizer", "quantized_onnx.OnnxQuantizer"):
            patch.setattr(f"rs4d_edge.export.{quantizer}.calibrate", lambda *_: None)
        fewer = CalibrationSet(calibration.source, calibration.paths[:-1])
        reason = "changed since the cached calibration: "
        assert calibrated(fewer) == f"calibrate on 7 frames: {reason}frames, preprocessing"
        settings = QuantizationSettings(correct_biases=False)
        note = calibrated(fewer, settings=settings)
        assert note == f"calibrate on 7 frames: {reason}setting correct_biases (True, now False)"
        perturb(once, "rpn_head.rpn_cls.weight", 1.5)
        assert "setting graph" in calibrated(fewer, settings=settings)


def test_layers_go_back_to_the_numbers_that_they_had(
    recipe: Recipe, detector: RS4D, once: ModelProto, calibration: CalibrationSet, cache: Path, tmp_path: Path
) -> None:
    frame = scene_frames(1, SIZE_HW)[0]
    feeds: dict[str, Any] = {"frame": frame[None], "valid_hw": np.array([SIZE_HW], dtype=np.int64)}
    with torch.inference_mode():
        expected = detector.features(*(torch.from_numpy(value) for value in feeds.values()))
    weights = pipeline.weights_record(detector)
    model = QuantizedModel(once, recipe, detector.config, weights, QuantizationPlan(calibration, cache=cache), tmp_path)

    def errors(restored: tuple[str, ...]) -> tuple[dict[str, float], tuple[str, ...]]:
        paths = [tmp_path / f"{name}{Path(recipe.target.model_file).suffix}" for name in ("model", "features")]
        written = model.write(paths[0], paths[1], restored)
        runtime = open_as_written(written.features_path, recipe, 1)
        found = runtime.run(feeds)
        runtime.close()
        assert written.quantization is not None
        compared = compare_features({name: value.numpy() for name, value in expected.items()}, found)
        return {each.name: each.relative for each in compared}, written.quantization.quantized

    plain, quantized = errors(())
    assert set(quantized) <= set(model.layers) and min(plain["stem.0"], plain["encoder.0"], plain["rpn_cls.0"]) > 1e-3
    assert recipe.target is Target.ONNX or quantized == model.layers
    stem = tuple(name for name in model.layers if name.startswith("backbone.stem.stride4"))
    some, quantized = errors(stem)
    assert not set(stem) & set(quantized) and some["encoder.0"] > 1e-3
    whole, quantized = errors(model.layers)
    assert quantized == ()
    if recipe.precision is Precision.INT8:
        assert some["stem.0"] < 1e-5 < plain["stem.0"]
        assert max(whole[name] for name in ("encoder.1", "neck.0", "rpn_cls.0", "rpn_reg.3")) < 2e-3  # fp16 positions


def test_the_noise_of_every_quantized_layer_can_be_read(
    recipe: Recipe, detector: RS4D, once: ModelProto, calibration: CalibrationSet, cache: Path, tmp_path: Path
) -> None:
    weights = pipeline.weights_record(detector)
    model = QuantizedModel(once, recipe, detector.config, weights, QuantizationPlan(calibration, cache=cache), tmp_path)
    probed = model.probe(tmp_path)
    paths = tmp_path / recipe.target.model_file, tmp_path / f"all-{recipe.target.model_file}"
    record = model.write(*paths).quantization
    assert record is not None and tuple(probe.layer for probe in probed.layers) == record.quantized
    found = {layer.name: layer for layer in measure_noise(probed, recipe, CalibrationRuns(calibration, recipe), 1)}
    for layer in found.values():
        ratios = layer.weights_db, layer.input_db, layer.result_db
        assert all(ratio is not None and ratio < 60 for ratio in ratios), layer
        assert layer.weights_db is not None and layer.weights_db > 25, layer
        assert (layer.paired is not None) == layer.name.startswith("roi_head."), layer
    second = found["backbone.stem.stride4.1.1/Conv"]  # a step of 1/127 of a channel's largest weight, in every target
    assert second.weights_db == pytest.approx(rounded_by_hand(once, second.name), abs=0.05)


def rounded_by_hand(graph: ModelProto, layer: str) -> float:
    """The ratio, in dB, of a convolution's weights to their errors."""
    (name,) = (node.input[1] for node in graph.graph.node if node.name == layer)
    weight = onnx.numpy_helper.to_array(next(held for held in graph.graph.initializer if held.name == name))
    step = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
    error = np.rint(weight / step) * step - weight
    return float(10 * np.log10(np.square(weight).sum() / np.square(error).sum()))


def test_int8_without_frames_and_frames_without_int8_are_refused(
    detector: RS4D, calibration: CalibrationSet, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--calib"):
        export(detector, Recipe(target=Target.CPU, precision=Precision.INT8, image_size_hw=SIZE_HW), tmp_path / "a")
    with pytest.raises(InputError, match="fp32 needs no calibration"):
        recipe = Recipe(target=Target.CPU, image_size_hw=SIZE_HW)
        export(detector, recipe, tmp_path / "b", plan=QuantizationPlan(calibration))
    assert not list(tmp_path.iterdir())


def test_mixers_and_masks_are_no_layers_whether_functions_are_inlined_or_not(translated: ModelProto) -> None:
    layers = quantizable_layers(loop_masks(translated))
    assert layers == quantizable_layers(loop_masks(inline_scan(translated)))
    assert sum(".in_proj/" in name or ".out_proj/" in name for name in layers) == 4
    for part in ("backbone.stem", "neck.", "rpn_head.", "roi_head.bbox_head."):
        assert any(name.startswith(part) for name in layers), part
    assert not any("Mixer" in name or "mask_head" in name for name in layers)


def test_the_manifest_without_quantization_is_as_it_was(detector: RS4D, once: ModelProto, tmp_path: Path) -> None:
    export(detector, Recipe(target=Target.ONNX, image_size_hw=SIZE_HW), tmp_path / "bundle")
    assert "quantization" not in json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert open_bundle(tmp_path / "bundle").manifest.quantization is None


@pytest.mark.slow
def test_the_prompt_head_on_a_batch_in_int8(
    make_detector: Callable[[HeadType], RS4D], calibration: CalibrationSet, tmp_path: Path
) -> None:
    recipe = Recipe(target=Target.ONNX, precision=Precision.INT8, image_size_hw=SIZE_HW, batch=2)
    export(make_detector(HeadType.PROMPT), recipe, tmp_path / "bundle", plan=QuantizationPlan(calibration))
    record = open_bundle(tmp_path / "bundle").manifest.quantization
    assert record is not None and len(record.quantized) > 20
