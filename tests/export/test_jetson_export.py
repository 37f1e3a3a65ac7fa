"""Bundles for Jetson: all that the device needs is in them, and the build that it does is done here for other GPUs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rs4d_edge.bundle import open_bundle
from rs4d_edge.calibration.frames import scene_frames
from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.export import pipeline
from rs4d_edge.export.pipeline import export_bundle
from rs4d_edge.export.recipes import Precision, Recipe, ScanForm, Target
from rs4d_edge.export.tensorrt_plugin_sources import PLUGIN_SOURCES
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.config import HeadType
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.runtimes.tensorrt_device_build import build_on_device
from rs4d_edge.runtimes.tensorrt_plugins import PLUGIN_NAMES
from rs4d_edge.verification import verify
from tests.export.conftest import SIZE_HW, shared_translation


@pytest.fixture(scope="module")
def bundle(make_detector: Callable[[HeadType], RS4D], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's, with the plugins."""
    folder = tmp_path_factory.mktemp("jetson") / "bundle"
    recipe = Recipe(target=Target.JETSON, precision=Precision.FP32, image_size_hw=SIZE_HW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "translate", shared_translation)
        return export_bundle(make_detector(HeadType.BBOX), recipe, folder, threads=1).path


def test_the_bundle_holds_what_the_device_needs(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert (manifest.target, manifest.runtime, manifest.options["scan"]) == ("jetson", "tensorrt", "plugin")
    assert str(manifest.options["engines"]).startswith("none: rs4d-export build")
    assert "in onnxruntime, our nodes by their bodies" in str(manifest.options["compared"])
    assert {file.path for file in manifest.files if not file.path.startswith("golden/")} == {
        "model.onnx",
        "plugin/README.txt",
        *(f"plugin/{name}" for name in PLUGIN_SOURCES),
    }
    assert manifest.parity.detections.matched == manifest.parity.detections.reference > 20


def test_its_build_step_makes_an_engine_and_leaves_the_bundle_proven(bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    built = build_on_device(open_bundle(bundle), library="tensorrt_rtx", compute_capability="8.9")
    contract = open_bundle(bundle).manifest.contract
    assert built.new and (built.folder / "model.engine").stat().st_size == built.record.size_bytes
    assert built.record.plugins == tuple(f"rs4d::{name}" for name in PLUGIN_NAMES)
    assert {each.name: each.shape for each in built.record.outputs} == contract.output_shapes
    assert json.loads((built.folder / "model.json").read_text())["model_sha256"] == built.record.model_sha256
    result = verify(bundle, runtime="onnxruntime", threads=1)
    assert result.passed
    assert open_bundle(bundle).unlisted == ()


def test_on_a_workstation_it_runs_in_onnx_runtime_when_asked(bundle: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match="cuda"):
        Predictor(bundle)
    with Predictor(bundle, runtime="onnxruntime", threads=1) as predictor:
        assert len(predictor.run(scene_frames(1, SIZE_HW)[0]).scores)


def test_plain_scans_need_no_plugin(
    make_detector: Callable[[HeadType], RS4D], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "translate", shared_translation)
    recipe = Recipe(target=Target.JETSON, image_size_hw=SIZE_HW, scan=ScanForm.PLAIN)
    export_bundle(make_detector(HeadType.BBOX), recipe, tmp_path / "bundle", threads=1)
    assert not (tmp_path / "bundle" / "plugin").exists()
