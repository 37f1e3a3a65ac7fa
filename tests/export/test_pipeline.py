"""Bundles from start to end, and that nothing unproven is ever left on disk."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx.numpy_helper
import pytest
from onnx import ModelProto

from rs4d_edge.bundle import open_bundle
from rs4d_edge.errors import ParityError
from rs4d_edge.export import model_files, pipeline
from rs4d_edge.export.graph import only_outputs
from rs4d_edge.export.parity import Comparison
from rs4d_edge.export.pipeline import ExportResult, Step, export_bundle
from rs4d_edge.export.recipes import Recipe, ScanForm, Target
from rs4d_edge.matching import compare_detections
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.config import HeadType
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.scenes import generate_scene

SIZE_HW = (64, 96)


@pytest.fixture
def once(translated: ModelProto, monkeypatch: pytest.MonkeyPatch) -> ModelProto:
    """The pipeline gets a copy of the shared translation, free to be changed, instead of its own, which takes long."""
    copied = ModelProto()
    copied.CopyFrom(translated)
    monkeypatch.setattr(pipeline, "translate", lambda model, batch: copied)
    return copied


def export(model: RS4D, recipe: Recipe, out: Path, **options: Any) -> ExportResult:
    """With one thread: the model is too small for more."""
    return export_bundle(model, recipe, out, threads=1, **options)


def perturb(graph: ModelProto, name: str, factor: float) -> None:
    """Scale one weight of an exported graph."""
    held = next(each for each in graph.graph.initializer if each.name == name)
    held.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(held) * np.float32(factor), name))


@pytest.mark.parametrize("target", [Target.ONNX, Target.CPU])
def test_bundle_gives_what_the_model_gives(target: Target, detector: RS4D, once: ModelProto, tmp_path: Path) -> None:
    pytest.importorskip(target.runtime)
    steps: list[Step] = []
    recipe = Recipe(target=target, image_size_hw=SIZE_HW)
    result = export(detector, recipe, tmp_path / "bundle", progress=steps.append)
    assert [step.name.split()[0] for step in steps] == ["translate", "write", "compare", "seal"]
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert (manifest.target, manifest.runtime, manifest.precision) == (target.value, target.runtime, "fp32")
    assert manifest.options["scan"] == result.scan.value
    assert manifest.options["mask_rows"] == target.mask_rows > 0
    assert {file.path.partition("/")[0] for file in manifest.files} <= {
        "model.onnx",
        "model.xml",
        "model.bin",
        "golden",
    }
    parity = manifest.parity
    assert parity.frames == 3 and parity.detections.matched >= 20
    assert parity.detections.matched == parity.detections.reference == parity.detections.exported
    assert {tensor.name for tensor in parity.tensors} >= {"normalised", "encoder.1", "neck.0", "rpn_cls.0"}
    assert all(tensor.max_abs_diff <= tensor.tolerance for tensor in parity.tensors)

    frame = generate_scene(5, (128, 100)).image  # not a golden one
    with Predictor(tmp_path / "bundle", threads=1) as exported, Predictor(detector) as reference:
        comparison = compare_detections(reference.run(frame), exported.run(frame), match_iou=0.95)
    assert comparison.matches and not comparison.lonely
    assert max(match.score for match in comparison.matches) < 1e-4


def test_prompt_head_on_a_batch_of_another_shape(make_detector: Callable[[HeadType], RS4D], tmp_path: Path) -> None:
    frames = [generate_scene(seed, size).image for seed, size in ((1, (80, 80)), (2, (70, 120)), (3, (64, 64)))]
    recipe = Recipe(target=Target.ONNX, image_size_hw=(96, 64), batch=2, mask_rows=3)  # 8 detections: three passes
    result = export(make_detector(HeadType.PROMPT), recipe, tmp_path / "bundle", frames=frames)
    assert result.scan is ScanForm.FUNCTION
    bundle = open_bundle(tmp_path / "bundle")
    assert (bundle.manifest.contract.image_size_hw, bundle.manifest.contract.batch) == ((96, 64), 2)
    assert bundle.manifest.parity.frames == 3
    stored = bundle.golden()
    for (frame, _), given in zip(stored, frames, strict=True):
        np.testing.assert_array_equal(frame, given)
    with Predictor(bundle.path, threads=1) as predictor:
        for (_, expected), found in zip(stored, predictor.run_batch(frames), strict=True):
            comparison = compare_detections(expected, found, match_iou=0.9)
            assert comparison.matches and not comparison.lonely


@pytest.mark.parametrize(("mask_rows", "loops"), [(None, 1), (0, 0)])
def test_masks_are_made_in_a_loop_unless_the_recipe_wants_none(
    mask_rows: int | None, loops: int, translated: ModelProto, tmp_path: Path
) -> None:
    recipe = Recipe(target=Target.ONNX, image_size_hw=SIZE_HW, mask_rows=mask_rows)
    path, _ = model_files.write_model(only_outputs(translated), recipe, tmp_path)
    assert [node.op_type for node in onnx.load(path).graph.node].count("Loop") == loops


@pytest.mark.parametrize("target", [Target.ONNX, Target.CPU])
@pytest.mark.parametrize(
    ("weight", "first"),
    [
        ("backbone.layers.1.out_proj/MatMul:in1", "encoder.1"),
        ("rpn_head.rpn_cls.weight", "rpn_cls.0"),
        ("roi_head.bbox_head.fc_cls.bias", "class_logits"),
    ],
)
def test_a_planted_fault_is_found_named_and_leaves_nothing(
    target: Target, weight: str, first: str, detector: RS4D, once: ModelProto, tmp_path: Path
) -> None:
    pytest.importorskip(target.runtime)
    perturb(once, weight, 1.5)
    seen: list[Comparison] = []
    with pytest.raises(ParityError, match=f"first result that departs is {first}"):
        export(detector, Recipe(target=target, image_size_hw=SIZE_HW), tmp_path / "bundle", inspect=seen.append)
    assert not list(tmp_path.iterdir())
    departing = seen[0].first_departing()
    assert departing is not None and departing.name == first


def test_a_small_fault_in_one_weight_is_not_taken_for_rounding(
    detector: RS4D, once: ModelProto, tmp_path: Path
) -> None:
    perturb(once, "backbone.layers.0.out_proj/MatMul:in1", 1.01)
    with pytest.raises(ParityError, match=r"encoder\.0"):
        export(detector, Recipe(target=Target.ONNX, image_size_hw=SIZE_HW), tmp_path / "bundle")


def test_a_fault_behind_the_last_result_compared_one_by_one_is_found(
    detector: RS4D, once: ModelProto, tmp_path: Path
) -> None:
    perturb(once, "roi_head.mask_head.conv_logits.weight", -1.0)
    with pytest.raises(ParityError, match="moved"):
        export(detector, Recipe(target=Target.ONNX, image_size_hw=SIZE_HW), tmp_path / "bundle")


def test_failure_keeps_the_bundle_that_was_there(detector: RS4D, once: ModelProto, tmp_path: Path) -> None:
    recipe = Recipe(target=Target.ONNX, image_size_hw=SIZE_HW)
    out = tmp_path / "bundle"
    export(detector, recipe, out)
    before = open_bundle(out).manifest
    perturb(once, "rpn_head.rpn_cls.weight", 2.0)
    with pytest.raises(ParityError):
        export(detector, recipe, out, overwrite=True)
    assert open_bundle(out).manifest == before
    assert list(tmp_path.iterdir()) == [out]


def test_weights_are_told_apart(detector: RS4D) -> None:
    same, other = copy.deepcopy(detector), copy.deepcopy(detector)
    other.backbone.ln1.bias.data[0] += 1e-6
    first = pipeline.weights_record(detector)
    assert pipeline.weights_record(same) == first
    assert pipeline.weights_record(other).sha256 != first.sha256
