from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rs4d_edge.training.augment import PLAIN, AugmentConfig, Sample, Source, augment, fit_sample
from rs4d_edge.training.batches import read_source
from rs4d_edge.training.datasets import load_coco
from rs4d_edge.training.instances import Instance, instance_from_bitmap, place_instance, rasterise, transform_points
from tests.training.tiny_data import write_tiny_coco

SIZE = 96
NO_COLOURS: dict[str, Any] = {"brightness": 0, "contrast": 0, "saturation": 0, "colour_cast": 0}
# What pictures are made of: label 0 is blue (in RGB, as files are written BGR), label 1 red; the ground is grey.
CHANNEL_OF = {0: 2, 1: 0}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    annotations, images = write_tiny_coco(tmp_path_factory.mktemp("augment"))
    return [read_source(record, 1000) for record in load_coco(annotations, images).records]


def draw(sources: list[Source], seed: int, config: AugmentConfig, size: int = SIZE) -> Sample:
    rng = np.random.default_rng(seed)
    return augment(lambda: sources[int(rng.integers(len(sources)))], size, config, rng)


@pytest.mark.parametrize("seed", range(30))
def test_boxes_masks_and_pixels_say_the_same(sources: list[Source], seed: int) -> None:
    """Whatever was done to a sample, a mask lies on pixels of its object's colour and fills its box."""
    config = AugmentConfig(mosaic=0.5, free_turn=0.5, copy_paste=0.5, **NO_COLOURS)
    sample = draw(sources, seed, config)
    assert sample.frame.shape == (SIZE, SIZE, 3)
    assert len(sample.boxes) == len(sample.labels) == len(sample.masks)
    for box, label, mask in zip(sample.boxes, sample.labels.tolist(), sample.masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert np.abs(box - tight).max() <= 1.0
        assert box.min() >= 0
        assert box.max() <= SIZE
        assert mask.sum() >= config.min_pixels
        pixels = sample.frame[mask > 0].astype(int)
        own = CHANNEL_OF[label]
        coloured = pixels[:, own] - pixels[:, 2 - own] > 60  # edges are mixed with the ground
        assert coloured.mean() > 0.6
    labelled = sample.masks.any(axis=0) if len(sample.masks) else np.zeros((SIZE, SIZE), bool)
    saturated = np.abs(sample.frame[..., 0].astype(int) - sample.frame[..., 2]) > 120
    # slivers of objects are dropped from the truth on purpose, whole ones never
    assert (saturated & ~labelled).mean() < 0.05


def test_masks_do_not_overlap_where_something_was_pasted(sources: list[Source]) -> None:
    config = AugmentConfig(mosaic=0, copy_paste=1.0)
    samples = [draw(sources, seed, config) for seed in range(20)]
    assert max(len(sample.masks) for sample in samples) > 2  # things were pasted
    assert all(sample.masks.sum(axis=0).max() <= 1 for sample in samples if len(sample.masks))


def test_the_same_seed_gives_the_same_sample(sources: list[Source]) -> None:
    first, second, other = (draw(sources, seed, AugmentConfig(copy_paste=0.5)) for seed in (3, 3, 4))
    assert all(np.array_equal(getattr(first, name), getattr(second, name)) for name in Sample._fields)
    assert not np.array_equal(first.frame, other.frame)


def test_quarter_turns_and_flips_keep_areas(sources: list[Source]) -> None:
    config = AugmentConfig(scale_range=(1, 1), mosaic=0, free_turn=0, min_visible=0, **NO_COLOURS)
    seen = set()
    for seed in range(16):
        sample = draw(sources, seed, config, size=128)  # the pictures are 96x128
        assert sorted(mask.sum() for mask in sample.masks) == [24 * 12, 24 * 24]
        bar = sample.boxes[sample.labels == 1][0]
        seen.add((round(float(bar[2] - bar[0]), 3), round(float(bar[3] - bar[1]), 3)))
    assert seen == {(24.0, 12.0), (12.0, 24.0)}


def test_fitting_moves_nothing_but_the_scale(sources: list[Source]) -> None:
    sample = fit_sample(sources[0], 64)
    expected = np.array([instance.box_xyxy for instance in sources[0].record.instances]) / 2
    np.testing.assert_allclose(sample.boxes, expected)
    assert sample.valid_hw.tolist() == [48, 64]
    assert [int(mask.sum()) for mask in sample.masks] == pytest.approx([12 * 12, 12 * 6], abs=24)


def test_plain_augmentation_of_a_square_picture_changes_no_pixel(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path, size_hw=(96, 96), side=12)
    source = read_source(load_coco(annotations, images).records[0], 1000)
    sample = augment(lambda: source, 96, PLAIN, np.random.default_rng(0))
    assert np.array_equal(sample.frame, source.image)


@pytest.mark.parametrize("angle", [0.0, 0.4, 2.0])
def test_bitmaps_and_polygons_of_one_shape_move_alike(angle: float, tmp_path: Path) -> None:
    ring = np.array([[20.0, 10.0], [60.0, 14.0], [50.0, 50.0], [24.0, 40.0]])
    outline = Instance(0, (20, 10, 60, 50), (ring,))
    filled = instance_from_bitmap(0, rasterise([ring], 64, 80))
    assert filled is not None
    turn = 1.3 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = transform_points(np.array([[40.0, 30.0]]), np.concatenate([turn, np.zeros((2, 1))], axis=1))[0]
    matrix = np.concatenate([turn, (np.array([64.0, 64.0]) - centre)[:, None]], axis=1)
    full = []
    for instance in (outline, filled):
        placed = place_instance(instance, matrix, 128, 128)
        assert placed is not None
        assert placed.whole
        mask = np.zeros((128, 128), np.uint8)
        (x, y), (height, width) = placed.origin_xy, placed.crop.shape
        mask[y : y + height, x : x + width] = placed.crop
        full.append(mask)
    union, common = (full[0] | full[1]).sum(), (full[0] & full[1]).sum()
    assert common / union > 0.95
