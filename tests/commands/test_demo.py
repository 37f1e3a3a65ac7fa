from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rs4d_edge.commands import demo as command
from rs4d_edge.commands.demo import Tally, app, tallies, write_picture
from rs4d_edge.detections import Detections
from rs4d_edge.errors import InputError
from rs4d_edge.frames import read_image
from rs4d_edge.masks import InstanceMask, MaskCrop
from rs4d_edge.reference.config import NWPU_CLASSES
from rs4d_edge.scenes import Scene, generate_scene

AIRPLANE, SHIP, VEHICLE = 0, 1, 9


def _detections(boxes: list[list[float]], labels: list[int]) -> Detections:
    crop = MaskCrop(0, 0, np.ones((1, 1), np.bool_))
    return Detections(
        boxes_xyxy=np.array(boxes, np.float32),
        scores=np.linspace(0.9, 0.5, len(labels)),
        labels=np.array(labels),
        masks=[InstanceMask(crop) for _ in labels],
        classes=NWPU_CLASSES,
        size_hw=(100, 100),
    )


def _scene(boxes: list[list[float]], labels: list[int]) -> Scene:
    masks = np.zeros((len(labels), 100, 100), np.bool_)
    return Scene(np.zeros((100, 100, 3), np.uint8), np.array(boxes, np.float32), np.array(labels, np.int64), masks)


def test_a_drawn_object_is_found_once_and_only_by_its_class() -> None:
    scene = _scene([[0, 0, 10, 10], [50, 50, 70, 70]], [AIRPLANE, SHIP])
    found = _detections(
        [[1, 0, 10, 10], [0, 0, 10, 11], [50, 50, 70, 70], [50, 50, 62, 62]], [AIRPLANE, AIRPLANE, VEHICLE, SHIP]
    )
    assert tallies(found, scene) == {
        "airplane": Tally(drawn=1, detected=2, right=1),
        "ship": Tally(drawn=1, detected=1, right=0),
        "vehicle": Tally(drawn=0, detected=1, right=0),
    }


def test_a_picture_comes_back_as_it_was_written(tmp_path: Path) -> None:
    image = generate_scene(1, (64, 80)).image
    write_picture(image, tmp_path / "deep" / "scene.png")
    assert np.array_equal(read_image(tmp_path / "deep" / "scene.png")[..., ::-1], image)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["scene.png"]


def test_a_picture_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "shipped_names", lambda: ("some-model",))
    result = CliRunner().invoke(app, ["--image", str(tmp_path / "absent.png"), "--out", str(tmp_path)])
    assert isinstance(result.exception, InputError)
    assert "absent.png" in str(result.exception)


def test_without_shipped_weights_the_demo_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "shipped_names", tuple)
    with pytest.raises(InputError, match="no trained weights"):
        command.default_model()


def test_photographs_make_it_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str, ...]] = []

    class StoppedError(Exception):
        pass

    def remembered(*parts: str) -> None:
        commands.append(parts)
        raise StoppedError

    monkeypatch.setattr(command, "run_command", remembered)
    monkeypatch.setattr(command, "shipped_names", lambda: ("some-model",))
    for given in ([], ["--calib", str(tmp_path)]):
        assert isinstance(CliRunner().invoke(app, ["--out", str(tmp_path / "demo"), *given]).exception, StoppedError)
    plain, quantized = commands
    assert "--precision" not in plain
    at = quantized.index("--precision")
    assert quantized[at : at + 4] == ("--precision", "int8", "--calib", str(tmp_path))
    absent = CliRunner().invoke(app, ["--calib", str(tmp_path / "absent"), "--out", str(tmp_path / "demo")])
    assert isinstance(absent.exception, InputError) and "CALIB=folder" in str(absent.exception)
