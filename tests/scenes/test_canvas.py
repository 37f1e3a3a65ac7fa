from __future__ import annotations

import math

import numpy as np

from rs4d_edge.scenes.canvas import Canvas, Place
from rs4d_edge.scenes.pen import Pen, Sprite, box


def _square(side: float, colour: tuple[int, int, int] = (200, 100, 50)) -> Sprite:
    pen = Pen(side, side, 0.0)
    pen.fill(box(-side / 2, -side / 2, side / 2, side / 2), colour)
    return pen.finish()


def _canvas(side: int = 100, water: np.ndarray | None = None) -> Canvas:
    wet = np.zeros((side, side), np.bool_) if water is None else water
    return Canvas(np.full((side, side, 3), 120, np.float32), wet, np.random.default_rng(0))


def test_what_is_laid_later_hides_what_lies_below() -> None:
    canvas = _canvas()
    assert canvas.lay(_square(20), 40, 40, label=3)
    before = canvas.instances[0].mask.sum()
    assert canvas.lay(_square(20), 50, 40, label=4)
    below, above = (instance.mask for instance in canvas.instances)
    assert above.sum() == before
    assert before * 0.45 < below.sum() < before * 0.55
    assert not (below & above).any()


def test_an_unlabelled_thing_hides_too() -> None:
    canvas = _canvas()
    canvas.lay(_square(20), 40, 40, label=3)
    canvas.lay(_square(8), 40, 40)
    assert len(canvas.instances) == 1
    assert not canvas.instances[0].mask[40, 40]


def test_nothing_is_drawn_when_too_little_would_be_seen() -> None:
    canvas = _canvas()
    before = canvas.image.copy()
    assert not canvas.lay(_square(20), -5, 50, height=4, label=1)
    assert not canvas.instances
    assert np.array_equal(before, canvas.image)


def test_a_shadow_falls_away_from_the_sun_and_is_no_part_of_the_mask() -> None:
    canvas = _canvas()
    canvas.sun = 0.0  # to the right, so the shadow falls to the left
    canvas.lay(_square(20), 50, 50, height=20, label=1)
    assert canvas.image[50, 37].mean() < 110
    assert canvas.image[50, 63].mean() > 119
    assert not canvas.instances[0].mask[50, 37]


def test_a_place_is_found_only_on_free_ground() -> None:
    water = np.zeros((100, 100), np.bool_)
    water[:, 50:] = True
    canvas = _canvas(water=water)
    rng = np.random.default_rng(1)
    ashore = [canvas.find(rng, 20, 10, (0.0, 1.0)) for _ in range(20)]
    afloat = [canvas.find(rng, 20, 10, (0.0, 1.0), afloat=True) for _ in range(20)]
    assert all(place is not None and place.corners().max(0)[0] < 50 for place in ashore)
    assert all(place is not None and place.corners().min(0)[0] > 50 for place in afloat)


def test_taken_ground_is_not_given_twice() -> None:
    canvas = _canvas()
    canvas.occupy(Place(50, 50, 90, 90, 0.0))
    assert canvas.find(np.random.default_rng(0), 30, 30, (0.0,), tries=200) is None


def test_a_place_turns_its_own_coordinates() -> None:
    place = Place(10, 20, 8, 4, math.pi / 2)
    assert np.allclose(place.point(3, 1), (9, 23))
    assert np.allclose(sorted(map(tuple, np.round(place.corners(), 6))), [(8, 16), (8, 24), (12, 16), (12, 24)])


def test_a_slab_beyond_the_frame_is_cut_off() -> None:
    canvas = _canvas()
    canvas.slab(Place(0, 0, 20, 20, 0.0), (200, 200, 200))
    canvas.slab(Place(500, 500, 20, 20, 0.0), (200, 200, 200))
    assert canvas.image[5, 5, 0] > 190
    assert canvas.image[20, 20, 0] == 120
