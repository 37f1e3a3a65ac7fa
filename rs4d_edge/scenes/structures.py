"""Built things: storage tanks, marinas and bridges, and the unlabelled houses, halls and trees around them."""

from __future__ import annotations

import math

import numpy as np

from rs4d_edge.scenes.pen import Pen, Sprite, arc, box, shade

_ROOFS = ((128, 112, 102), (98, 92, 88), (150, 146, 140), (112, 78, 66), (178, 174, 168), (84, 82, 84))
_FLAT_ROOFS = ((198, 196, 192), (150, 150, 150), (116, 122, 130), (176, 168, 154))


def storage_tank(rng: np.random.Generator, size: float, angle: float) -> Sprite:
    """A round tank of diameter `size`; `angle` points to the sun."""
    pen = Pen(size, size, angle)
    radius = size / 2
    white = shade((238, 238, 234), rng.uniform(0.84, 1.07))
    pen.disc(0, 0, radius, shade(white, 0.78))
    pen.disc(0.03 * size, 0, 0.93 * radius, white, opaque=False)
    if rng.random() < 0.25:  # a floating roof, sunk into its own shadow
        pen.disc(0, 0, 0.86 * radius, (96, 98, 100), opaque=False)
        pen.disc(-0.16 * radius, 0, 0.74 * radius, shade(white, 0.86), opaque=False)
    elif rng.random() < 0.6:
        for turn in np.arange(0, 2 * math.pi, math.pi / 5):
            pen.stroke(
                [(0, 0), (0.9 * radius * math.cos(turn), 0.9 * radius * math.sin(turn))], shade(white, 0.93), 0.3
            )
        pen.disc(0, 0, 0.16 * radius, shade(white, 0.86), opaque=False)
    return pen.finish()


def harbor(rng: np.random.Generator, size: float, angle: float) -> Sprite:
    """A pier of length `size` with boats moored on both sides. The mask is the rectangle around pier and boats."""
    boat = min(max(rng.uniform(0.12, 0.17) * size, 7.0), 20.0)
    beam = boat * rng.uniform(0.3, 0.36)
    width = 2 * boat + 0.2 * boat
    pen = Pen(size, width, angle)
    deck = shade((168, 162, 150), rng.uniform(0.8, 1.1))
    pen.fill(box(-size / 2, -0.09 * boat, size / 2, 0.09 * boat), deck)
    berths = int((size - boat * 0.3) / (beam * 1.35))
    xs = (np.arange(berths) - (berths - 1) / 2) * beam * 1.35
    for side in (-1, 1):
        for index, x in enumerate(xs):
            if index % 2 == 0:
                pen.fill(box(x - 0.62 * beam, 0, x - 0.52 * beam, side * 0.75 * boat), deck)
            if rng.random() < 0.86:
                _moored_boat(rng, pen, x, side, boat * rng.uniform(0.72, 1.0), beam)
    pen.outline(box(-size / 2, -width / 2, size / 2, width / 2))
    return pen.finish()


def _moored_boat(rng: np.random.Generator, pen: Pen, x: float, side: int, length: float, beam: float) -> None:
    hull = shade((228, 228, 226), rng.uniform(0.75, 1.1))
    near, far, half = side * 0.12 * length, side * 1.08 * length, 0.42 * beam
    shoulder = near + 0.6 * (far - near)
    pen.fill([(x - half, near), (x + half, near), (x + half, shoulder), (x, far), (x - half, shoulder)], hull)
    if rng.random() < 0.7:
        cabin = ((70, 82, 104), (120, 124, 126), (86, 74, 66))[rng.integers(3)]
        stop = near + 0.5 * (far - near)
        pen.fill(box(x - 0.6 * half, near + 0.2 * (stop - near), x + 0.6 * half, stop), cabin, opaque=False)


def bridge(rng: np.random.Generator, size: float, angle: float, width: float) -> Sprite:
    """The deck of a road bridge, `size` long and `width` wide."""
    pen = Pen(size, width, angle)
    half, wide = size / 2, width / 2
    deck = shade((128, 126, 122), rng.uniform(0.8, 1.25))
    pen.fill(box(-half, -wide, half, wide), shade(deck, 1.3))
    pen.fill(box(-half, -0.84 * wide, half, 0.84 * wide), deck, opaque=False)
    if rng.random() < 0.3:  # a truss
        bay = width * 0.7
        for x in np.arange(-half, half, bay):
            pen.stroke([(x, -wide), (x, wide)], shade(deck, 1.45), 0.07 * width)
    else:
        dash = max(4.0, 0.3 * width)
        for x in np.arange(-half, half, 2 * dash):
            pen.stroke([(x, 0), (x + dash, 0)], (206, 204, 190), 0.05 * width)
    return pen.finish()


def house(rng: np.random.Generator, size: float, angle: float) -> Sprite:
    """A pitched roof, `size` along the ridge."""
    width = size * rng.uniform(0.55, 0.9)
    pen = Pen(size, width, angle)
    roof = shade(_ROOFS[rng.integers(len(_ROOFS))], rng.uniform(0.7, 1.2))
    half, wide = size / 2, width / 2
    pen.fill(box(-half, -wide, half, wide), roof)
    pen.fill(box(-half, 0, half, wide), shade(roof, 0.8), opaque=False)
    if rng.random() < 0.5:
        pen.fill([(-half, -wide), (-half + wide, 0), (-half, wide)], shade(roof, 0.9), opaque=False)
        pen.fill([(half, -wide), (half - wide, 0), (half, wide)], shade(roof, 1.1), opaque=False)
    return pen.finish()


def hall(rng: np.random.Generator, length: float, width: float, angle: float) -> Sprite:
    """A flat roof with vents: a warehouse, a terminal, a school."""
    pen = Pen(length, width, angle)
    roof = shade(_FLAT_ROOFS[rng.integers(len(_FLAT_ROOFS))], rng.uniform(0.75, 1.2))
    half, wide = length / 2, width / 2
    pen.fill(box(-half, -wide, half, wide), shade(roof, 1.1))
    pen.fill(box(1 - half, 1 - wide, half - 1, wide - 1), roof, opaque=False)
    if rng.random() < 0.5:
        for x in np.arange(-half + 6, half - 2, rng.uniform(5, 10)):
            pen.stroke([(x, 1 - wide), (x, wide - 1)], shade(roof, 0.9), 0.5)
    for _ in range(int(length * width / 500)):
        x, y = rng.uniform(-0.85, 0.85) * half, rng.uniform(-0.8, 0.8) * wide
        vent = box(x, y, x + rng.uniform(2, 5), y + rng.uniform(2, 4))
        pen.fill(vent, shade(roof, rng.choice((0.7, 1.25))), opaque=False)
    return pen.finish()


def tree(rng: np.random.Generator, size: float, sun: float) -> Sprite:
    """A crown of diameter `size`, lit from the direction `sun`."""
    pen = Pen(size, size, sun)
    green = shade((54, 72, 46), rng.uniform(0.65, 1.25))
    turns = np.linspace(0, 2 * math.pi, 14, endpoint=False)
    radii = size / 2 * rng.uniform(0.75, 1.0, len(turns))
    crown = np.stack([radii * np.cos(turns), radii * np.sin(turns)], axis=1)
    pen.fill(crown, shade(green, 0.8))
    pen.fill(crown * 0.7 + (0.12 * size, 0), green, opaque=False)
    pen.fill(np.array(arc(0.2 * size, 0, 0.14 * size, 0.14 * size, steps=8)), shade(green, 1.3), opaque=False)
    return pen.finish()
