from __future__ import annotations

import numpy as np
import pytest

from rs4d_edge.errors import RS4DError
from rs4d_edge.reference.config import NWPU_CLASSES
from rs4d_edge.scenes import Scene, generate_scene
from rs4d_edge.scenes.objects import SIZES, Kind

SEEDS = range(24)
SIDE = 320


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [generate_scene(seed, (SIDE, SIDE)) for seed in SEEDS]


def test_labels_are_those_of_the_data_set() -> None:
    assert tuple(kind.name.lower() for kind in Kind) == NWPU_CLASSES


def test_shapes_and_types(scenes: list[Scene]) -> None:
    for scene in scenes:
        count = len(scene.labels)
        assert scene.image.shape == (SIDE, SIDE, 3)
        assert scene.image.dtype == np.uint8
        assert scene.boxes.shape == (count, 4)
        assert scene.boxes.dtype == np.float32
        assert scene.labels.dtype == np.int64
        assert scene.masks.shape == (count, SIDE, SIDE)
        assert scene.masks.dtype == np.bool_


def test_the_seed_decides_everything() -> None:
    first, again, other = generate_scene(7, (200, 260)), generate_scene(7, (200, 260)), generate_scene(8, (200, 260))
    for name in Scene._fields:
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (200, 260, 3)


def test_every_class_turns_up(scenes: list[Scene]) -> None:
    counts = sum(np.bincount(scene.labels, minlength=len(Kind)) for scene in scenes)
    assert np.all(counts > 0), dict(zip(NWPU_CLASSES, np.atleast_1d(counts), strict=True))


def test_boxes_are_tight(scenes: list[Scene]) -> None:
    for scene in scenes:
        for (x0, y0, x1, y1), mask in zip(scene.boxes.astype(int), scene.masks, strict=True):
            inside = mask[y0:y1, x0:x1]
            assert inside.sum() == mask.sum()
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def test_opaque_objects_do_not_share_pixels(scenes: list[Scene]) -> None:
    for scene in scenes:
        solid = scene.masks[scene.labels != Kind.HARBOR]  # a harbor's outline takes in the water between its boats
        assert solid.sum(0).max(initial=0) <= 1


def test_objects_have_the_sizes_that_the_data_set_shows(scenes: list[Scene]) -> None:
    for scene in scenes:
        sides = (scene.boxes[:, 2:] - scene.boxes[:, :2]).max(1) * 640 / SIDE
        for side, label in zip(sides, scene.labels, strict=True):
            assert side <= 1.5 * SIZES[Kind(label)][2] + 4, (Kind(label).name, side)


def test_ships_float_and_tanks_do_not(scenes: list[Scene]) -> None:
    """Water is bluer or greener than it is red; what a ship's box holds beside the ship is water."""

    def redness(kind: Kind) -> float:
        rings = []
        for scene in scenes:
            objects = np.any(scene.masks, 0)
            for x0, y0, x1, y1 in scene.boxes[scene.labels == kind].astype(int):
                window = (slice(max(y0 - 6, 0), y1 + 6), slice(max(x0 - 6, 0), x1 + 6))
                around = scene.image[window][np.logical_not(objects[window])].astype(float)
                rings.append(np.median(around[:, 0] - around[:, 1:].mean(1)))
        return float(np.mean(rings))

    assert redness(Kind.SHIP) < -4 < redness(Kind.STORAGE_TANK)


def test_the_smallest_frames_show_something() -> None:
    for seed in range(20):
        image = generate_scene(seed, (64, 64)).image
        assert image.std() > 8 and 20 < np.median(image) < 220, seed


def test_too_small_a_frame_is_refused() -> None:
    with pytest.raises(RS4DError, match="at least 64"):
        generate_scene(0, (640, 32))
