"""Samples follow from their position; the cache and the teacher that runs along see the same picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rs4d_edge.errors import DataError
from rs4d_edge.training.distill_samples import SampleMaker, oriented
from rs4d_edge.training.teachers import Preprocessing
from rs4d_edge.training.unlabelled import list_images
from tests.training.tiny_distillation import write_pictures


def maker(folder: Path, *, crop: float = 1.0, seed: int = 0) -> SampleMaker:
    student, teacher = Preprocessing(side=64), Preprocessing(side=96, antialias=True)
    images = list_images([folder])
    return SampleMaker(images, student, teacher, None, seed=seed, orientations=8, smallest_crop=crop)


def test_the_eight_orientations_are_different_and_end_where_they_began() -> None:
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    shown = [oriented(image, k) for k in range(8)]
    assert np.array_equal(shown[0], image)
    assert np.array_equal(shown[4], image[:, ::-1])
    assert len({(each.shape, each.tobytes()) for each in shown}) == 8


@pytest.mark.parametrize("crop", [1.0, 0.5])
def test_a_sample_follows_from_its_position(tmp_path: Path, crop: float) -> None:
    folder = write_pictures(tmp_path)
    together, again = maker(folder, crop=crop).batch(3, 6), maker(folder, crop=crop)
    for number in range(6):
        alone = again.batch(3 + number, 1)
        assert torch.equal(alone.frame[0], together.frame[number])
        assert alone.seeds[0] == together.seeds[number]
        assert alone.teacher_frame is not None
        assert together.teacher_frame is not None
        assert torch.equal(alone.teacher_frame[0], together.teacher_frame[number])
    part = together.part(2, 3)
    assert torch.equal(part.frame, together.frame[2:5])
    assert part.seeds == together.seeds[2:5]
    assert not torch.equal(maker(folder, crop=crop, seed=1).batch(3, 6).frame, together.frame)


def test_an_epoch_shows_every_picture_once(tmp_path: Path) -> None:
    samples = maker(write_pictures(tmp_path))
    for epoch in (0, 1):
        batch = samples.batch(6 * epoch, 6)
        assert len({frame.float().std().item() for frame in batch.frame}) == 6  # the spread outlasts any turn


def test_student_and_teacher_see_the_same_part_of_the_picture(tmp_path: Path) -> None:
    batch = maker(write_pictures(tmp_path), crop=0.4).batch(0, 8)
    assert batch.teacher_frame is not None
    small = torch.nn.functional.interpolate(batch.teacher_frame.permute(0, 3, 1, 2).float(), size=16, mode="area")
    own = torch.nn.functional.interpolate(batch.frame.permute(0, 3, 1, 2).float(), size=16, mode="area")
    assert float((small - own).abs().mean()) < 6.0  # of 255; another picture or turn differs by tens


def test_a_picture_that_vanished_is_named(tmp_path: Path) -> None:
    samples = maker(write_pictures(tmp_path, 1))
    (tmp_path / "0.png").unlink()
    with pytest.raises(DataError, match=r"0\.png cannot be read.*when the run was started"):
        samples.batch(0, 1)
