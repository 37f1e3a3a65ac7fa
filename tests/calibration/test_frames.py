"""Where golden and calibration frames come from, and that they are fed as the Predictor feeds."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from rs4d_edge.calibration.frames import image_paths, load_frames, prepare, scene_frames
from rs4d_edge.errors import DataError, InputError
from rs4d_edge.frames import Frame


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images whose red channel is their number, and a text file."""
    for number in range(5):
        image = np.zeros((20, 30 + number, 3), dtype=np.uint8)
        image[..., 2] = number  # OpenCV writes BGR
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def numbers(frames: list[Frame]) -> list[int]:
    """Which images they are, by their red channel."""
    return [int(frame[0, 0, 0]) for frame in frames]


def test_frames_are_rgb_and_spread_over_the_folder(folder: Path) -> None:
    assert numbers(load_frames(folder, 3)) == [0, 2, 4]
    assert numbers(load_frames(folder, 9)) == [0, 1, 2, 3, 4]
    assert numbers(load_frames(folder / "3.png", 3)) == [3]


@pytest.mark.parametrize("below", ["", "images"])
def test_coco_file_names_images_beside_it(folder: Path, below: str) -> None:
    images = folder / below
    images.mkdir(exist_ok=True)
    for number in (1, 3):
        (folder / f"{number}.png").rename(images / f"part_{number}.png")
    annotations = folder / "instances.json"
    annotations.write_text(json.dumps({"images": [{"file_name": "part_3.png"}, {"file_name": "part_1.png"}]}))
    assert numbers(load_frames(annotations, 5)) == [1, 3]


@pytest.mark.parametrize("content", ["[]", "{", '{"images": [{"id": 1}]}', '{"images": [{"file_name": "gone.png"}]}'])
def test_unusable_coco_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises(DataError, match=r"instances\.json"):
        load_frames(tmp_path / "instances.json", 1)


def test_no_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names no image"):
        load_frames(tmp_path, 3)
    with pytest.raises(DataError, match="no frames at"):
        image_paths(tmp_path / "missing")
    with pytest.raises(InputError, match="no frame"):
        list(prepare([], (32, 32)))


def test_scenes_are_the_same_each_time_and_need_padding() -> None:
    first, second = scene_frames(3, (128, 160)), scene_frames(3, (128, 160))
    assert [frame.shape[:2] for frame in first] == [(128, 160), (96, 160), (128, 100)]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first[0][:96, :100], first[1][:96, :100])


def test_batches_are_filled_up_and_know_their_frames() -> None:
    frames = [np.full((20, 40, 3), value, dtype=np.uint8) for value in (10, 20, 30)]
    batches = list(prepare(frames, (16, 16), batch=2))
    assert [batch.first for batch in batches] == [0, 2]
    assert [len(batch.geometries) for batch in batches] == [2, 1]
    for batch, values in zip(batches, ((10, 20), (30, 30)), strict=True):
        assert batch.feeds["frame"].shape == (2, 16, 16, 3)
        assert batch.feeds["valid_hw"].tolist() == [[8, 16], [8, 16]]
        assert batch.feeds["frame"][:, 0, 0, 0].tolist() == list(values)
        assert not batch.feeds["frame"][:, 8:].any()
