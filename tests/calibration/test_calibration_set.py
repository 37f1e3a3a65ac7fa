"""What int8 is calibrated on, and that a change of it is seen."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from rs4d_edge.calibration.calibration_set import CalibrationSet, open_calibration_set
from rs4d_edge.calibration.frames import load_frames, prepare
from rs4d_edge.errors import DataError, InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images of noise, each of another width."""
    random = np.random.default_rng(5)
    for number in range(5):
        image = random.integers(0, 256, (20, 30 + number, 3), dtype=np.uint8)
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    return tmp_path


def opened(folder: Path, samples: int = 300) -> CalibrationSet:
    with pytest.warns(UserWarning, match="are few"):
        return open_calibration_set(folder, samples)


def test_without_frames_there_is_an_error_and_never_a_default(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--calib"):
        open_calibration_set(None)
    with pytest.raises(DataError, match="names no image"):
        open_calibration_set(tmp_path)
    with pytest.raises(DataError, match="no frames at"):
        open_calibration_set(tmp_path / "missing")
    with pytest.raises(InputError, match="at least one"):
        open_calibration_set(tmp_path, 0)


def test_few_frames_are_warned_of_and_enough_are_not(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    for number in range(100):
        (folder / f"more_{number}.png").write_bytes((folder / "0.png").read_bytes())
    assert len(open_calibration_set(folder, 100)) == 100
    assert not recwarn.list
    assert [path.name for path in opened(folder, 3).paths] == ["0.png", "more_51.png", "more_99.png"]


@pytest.mark.parametrize("batch", [1, 2])
def test_feeds_are_those_of_the_predictor_and_can_be_had_again(folder: Path, batch: int) -> None:
    found = opened(folder)
    expected = [prepared.feeds for prepared in prepare(load_frames(folder, 5), (32, 48), batch)]
    for _ in range(2):
        feeds = list(found.feeds((32, 48), batch))
        assert len(feeds) == len(expected)
        for ours, theirs in zip(feeds, expected, strict=True):
            assert ours.keys() == theirs.keys()
            assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_pixels_and_preprocessing_are_told_apart(folder: Path) -> None:
    frames, fed = opened(folder).digests((32, 48), 1)
    assert opened(folder).digests((32, 48), 1) == (frames, fed)
    other_size = opened(folder).digests((48, 48), 1)
    assert other_size[0] == frames and other_size[1] != fed
    image = cv2.imread(str(folder / "3.png"))
    assert image is not None
    image[0, 0, 0] ^= 1
    cv2.imwrite(str(folder / "3.png"), image)
    changed = opened(folder).digests((32, 48), 1)
    assert changed[0] != frames and changed[1] != fed
