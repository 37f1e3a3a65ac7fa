from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from typer.testing import CliRunner

from rs4d_edge.commands.evaluate import app
from rs4d_edge.errors import DataError, InputError, RuntimeUnavailable
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.checkpoints import save_checkpoint
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.scenes import generate_scene
from tests.reference.tiny_detector import SIDE, TINY


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A checkpoint, and a data set whose truth is what its model finds: (checkpoint, annotations, images)."""
    folder = tmp_path_factory.mktemp("task")
    torch.manual_seed(0)
    model = RS4D(TINY).eval()
    save_checkpoint(model, folder / "tiny.safetensors")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with Predictor(model) as predictor:
        for number in (1, 2):
            frame = generate_scene(number, (SIDE, SIDE)).image
            cv2.imwrite(str(folder / f"{number}.png"), frame[..., ::-1])
            images.append({"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE})
            detections = predictor.run(frame)
            for found, crop in zip(detections.to_coco(image_id=number), detections.mask_crops(), strict=True):
                found.pop("score")
                annotations.append({**found, "id": len(annotations) + 1, "area": crop.area, "iscrowd": 0})
    assert len(annotations) > 4
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(TINY.classes)]
    truth = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder / "tiny.safetensors", folder / "truth.json", folder


def test_a_model_is_right_about_its_own_detections(task: tuple[Path, Path, Path], tmp_path: Path) -> None:
    checkpoint, truth, images = map(str, task)
    written = tmp_path / "deep" / "figures.json"
    result = CliRunner().invoke(app, [checkpoint, "--data", truth, "--images", images, "--json", str(written)])
    assert result.exit_code == 0, result.exception
    figures = json.loads(written.read_text())
    assert figures["source"] == checkpoint
    assert figures["images"] == 2
    for kind in ("bbox", "segm"):
        assert set(figures[kind]) == {"AP", "AP50", "AP75", "APs", "APm", "APl", "per_class"}
        assert figures[kind]["AP"] == pytest.approx(1.0, abs=1e-6)
    confusion = figures["confusion"]
    assert confusion["classes"] == list(TINY.classes)
    objects = json.loads(task[1].read_text())["annotations"]
    of_class = [sum(each["category_id"] == label + 1 for each in objects) for label in range(len(TINY.classes))]
    assert [sum(row) for row in confusion["matrix"][:-1]] == of_class
    assert "1.000" in result.output
    assert "2 images" in result.output


def test_mistakes_cost_precision(task: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """One object less in the truth is one false detection more."""
    checkpoint, truth, images = task
    content = json.loads(truth.read_text())
    content["annotations"] = content["annotations"][1:]
    (tmp_path / "less.json").write_text(json.dumps(content))
    arguments = [str(checkpoint), "--data", str(tmp_path / "less.json"), "--images", str(images)]
    written = tmp_path / "figures.json"
    assert CliRunner().invoke(app, [*arguments, "--json", str(written)]).exit_code == 0
    assert 0 < json.loads(written.read_text())["bbox"]["AP"] < 0.999


def test_what_cannot_be_evaluated_is_named(task: tuple[Path, Path, Path], tmp_path: Path) -> None:
    checkpoint, truth, images = map(str, task)
    runner = CliRunner()
    absent = runner.invoke(app, [checkpoint, "--data", str(tmp_path / "absent.json"), "--images", images])
    assert isinstance(absent.exception, DataError)
    folder = runner.invoke(app, [checkpoint, "--data", truth, "--images", images, "--json", str(tmp_path)])
    assert isinstance(folder.exception, InputError)
    unknown = runner.invoke(app, ["no-such-model", "--data", truth, "--images", images])
    assert isinstance(unknown.exception, InputError)


def test_a_class_without_objects_is_null_in_the_json(task: tuple[Path, Path, Path], tmp_path: Path) -> None:
    checkpoint, truth, images = task
    content = json.loads(truth.read_text())
    label = content["annotations"][0]["category_id"]
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] == label]
    (tmp_path / "one.json").write_text(json.dumps(content))
    arguments = [str(checkpoint), "--data", str(tmp_path / "one.json"), "--images", str(images), "--limit", "1"]
    written = tmp_path / "figures.json"
    result = CliRunner().invoke(app, [*arguments, "--json", str(written)])
    assert result.exit_code == 0, result.exception
    per_class = json.loads(written.read_text())["segm"]["per_class"]
    assert [name for name, figures in per_class.items() if figures["AP"] is not None] == [TINY.classes[label - 1]]


def test_a_missing_package_is_named(task: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, truth, images = map(str, task)
    for name in [name for name in sys.modules if name.startswith("rs4d_edge.evaluation")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    result = CliRunner().invoke(app, [checkpoint, "--data", truth, "--images", images])
    assert isinstance(result.exception, RuntimeUnavailable)
    assert "pip install faster-coco-eval" in str(result.exception)
