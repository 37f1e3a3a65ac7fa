from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from rs4d_edge.scenes.craft import airplane, ship, vehicle
from rs4d_edge.scenes.pen import Pen, Sprite, box
from rs4d_edge.scenes.sports import baseball_diamond, basketball_court, ground_track_field, tennis_court
from rs4d_edge.scenes.structures import harbor, storage_tank

Draw = Callable[[np.random.Generator, float, float], Sprite]

# How long a mask is for each pixel of width, seen along the object; and which share of its rectangle it fills.
EXPECTED: list[tuple[Draw, tuple[float, float], tuple[float, float]]] = [
    (airplane, (0.9, 1.25), (0.2, 0.45)),
    (ship, (3.0, 7.5), (0.75, 1.0)),
    (vehicle, (1.9, 2.6), (0.85, 1.0)),
    (storage_tank, (0.95, 1.05), (0.74, 0.83)),
    (tennis_court, (2.0, 2.3), (0.97, 1.0)),
    (basketball_court, (1.75, 2.0), (0.97, 1.0)),
    (ground_track_field, (1.7, 2.05), (0.85, 0.95)),
    (harbor, (2.2, 4.5), (0.97, 1.0)),
    (baseball_diamond, (0.8, 1.2), (0.5, 0.95)),
]


def _extent(mask: np.ndarray) -> tuple[int, int]:
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)


@pytest.mark.parametrize(("draw", "aspect", "filled"), EXPECTED, ids=lambda value: getattr(value, "__name__", None))
def test_each_object_has_its_shape(draw: Draw, aspect: tuple[float, float], filled: tuple[float, float]) -> None:
    for seed in range(5):
        sprite = draw(np.random.default_rng(seed), 80.0, 0.0)
        length, width = _extent(sprite.mask)
        assert aspect[0] <= length / width <= aspect[1]
        assert filled[0] <= sprite.mask.sum() / (length * width) <= filled[1]


@pytest.mark.parametrize("draw", [row[0] for row in EXPECTED], ids=lambda value: value.__name__)
def test_turning_keeps_the_area(draw: Draw) -> None:
    areas = [draw(np.random.default_rng(3), 60.0, angle).mask.sum() for angle in (0.0, 0.7, math.pi / 2, 4.0)]
    assert max(areas) - min(areas) <= 0.06 * max(areas) + 4


@pytest.mark.parametrize("draw", [row[0] for row in EXPECTED], ids=lambda value: value.__name__)
def test_colours_are_premultiplied_and_bounded(draw: Draw) -> None:
    sprite = draw(np.random.default_rng(0), 50.0, 0.4)
    assert sprite.alpha.min() == 0.0 and sprite.alpha.max() == 1.0
    assert sprite.rgb.shape == (*sprite.alpha.shape, 3)
    assert np.all(sprite.rgb <= 255 * sprite.alpha[..., None] + 1.0)


def test_a_pen_places_its_square_exactly() -> None:
    pen = Pen(10, 6, 0.0)
    pen.fill(box(-5, -3, 5, 3), (255, 255, 255))
    sprite = pen.finish()
    assert _extent(sprite.mask) == (10, 6)
    assert sprite.alpha.sum() == pytest.approx(60, abs=5)


def test_paint_that_is_not_opaque_adds_nothing_to_the_outline() -> None:
    pen = Pen(20, 20, 0.0)
    pen.fill(box(-5, -5, 5, 5), (200, 200, 200))
    pen.fill(box(-9, -9, 9, 9), (90, 90, 90), opaque=False)
    sprite = pen.finish()
    assert _extent(sprite.mask) == (10, 10)
    assert sprite.rgb[sprite.alpha == 0].max() == 0
    assert sprite.rgb[12, 12, 0] == 90
