"""Things that move: airplanes, ships, vehicles. Sizes in pixels, angles in radians, noses towards +x."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from rs4d_edge.scenes.pen import Colour, Pen, Sprite, arc, box, mirrored, shade

_LIVERIES = ((200, 60, 50), (50, 90, 170), (60, 120, 80), (215, 150, 50))
_HULLS = ((150, 70, 58), (120, 118, 112), (96, 104, 112), (172, 168, 158), (70, 84, 100), (196, 84, 60))
_CARGO = ((178, 66, 56), (60, 98, 150), (196, 190, 176), (96, 130, 96), (200, 150, 70))
_PAINTS = (
    (232, 232, 228),
    (214, 214, 212),
    (150, 152, 154),
    (60, 62, 66),
    (34, 36, 40),
    (170, 44, 40),
    (46, 70, 120),
    (196, 178, 70),
)


def airplane(rng: np.random.Generator, size: float, angle: float) -> Sprite:
    """An airliner or a small jet, `size` nose to tail."""
    span = size * rng.uniform(0.84, 1.02)
    pen = Pen(size, span, angle)
    body = shade((236, 236, 232), rng.uniform(0.86, 1.06))
    wing = shade(body, rng.uniform(0.84, 0.97))
    sweep = rng.uniform(0.14, 0.24) * size
    radius = rng.uniform(0.05, 0.064) * size
    for side in (-1, 1):
        _wing(pen, side, size, span, sweep, wing)
        tail_tip = side * rng.uniform(0.17, 0.2) * size
        pen.fill([(-0.36 * size, 0), (-0.46 * size, tail_tip), (-0.5 * size, tail_tip), (-0.45 * size, 0)], wing)
    nose = arc(0.36 * size, 0, 0.14 * size, radius, 0, np.pi / 2, 8)
    pen.fill(mirrored([*nose, (-0.3 * size, radius), (-0.5 * size, 0.25 * radius)]), body)
    lee = [(0.4 * size, 0), (0.36 * size, radius), (-0.3 * size, radius), (-0.48 * size, 0)]
    pen.fill(lee, shade(body, 0.88), opaque=False)
    if rng.random() < 0.45:
        livery = _LIVERIES[rng.integers(len(_LIVERIES))]
        pen.fill(box(-0.5 * size, -0.3 * radius, -0.36 * size, 0.3 * radius), livery, opaque=False)
        if rng.random() < 0.4:
            pen.fill(box(-0.3 * size, -0.5 * radius, 0.3 * size, 0.5 * radius), livery, opaque=False)
    pen.fill(box(0.43 * size, -0.5 * radius, 0.46 * size, 0.5 * radius), (60, 64, 70), opaque=False)
    return pen.finish()


def _wing(pen: Pen, side: int, size: float, span: float, sweep: float, colour: Colour) -> None:
    tip = side * span / 2
    root, chord = 0.13 * size, 0.23 * size
    leading = [(root, 0), (root - sweep, tip)]
    trailing = [(root - sweep - 0.07 * size, tip), (root - chord - 0.25 * sweep, 0.35 * tip), (root - chord, 0)]
    pen.fill(leading + trailing, colour)
    for share in (0.36,) if size < 50 else (0.34, 0.62):
        x = root - sweep * share
        pen.fill(arc(x, tip * share, 0.065 * size, 0.028 * size, steps=12), shade(colour, 0.78))


def ship(rng: np.random.Generator, size: float, angle: float) -> Sprite:
    """A yacht when small, else a freighter or a tanker; `size` bow to stern."""
    beam = size / rng.uniform(4.6, 6.6) if size > 24 else size / rng.uniform(3.0, 4.2)
    pen = Pen(size, beam, angle)
    half, wide = size / 2, beam / 2
    hull = shade(_HULLS[rng.integers(len(_HULLS))] if size > 24 else (226, 226, 222), rng.uniform(0.85, 1.15))
    bow = rng.uniform(0.6, 0.74) * half
    shape = mirrored(
        [(half, 0), (0.5 * (half + bow), 0.72 * wide), (bow, wide), (-0.9 * half, wide), (-half, 0.6 * wide)]
    )
    pen.fill(shape, shade(hull, 0.72))
    pen.fill(np.array(shape) * (0.96, 0.78), hull, opaque=False)
    bridge = (222, 222, 216)
    if size <= 24:
        pen.fill(box(-0.5 * half, -0.45 * wide, 0.2 * half, 0.45 * wide), (120, 128, 136), opaque=False)
        return pen.finish()
    if rng.random() < 0.5:
        _hold(rng, pen, half, wide)
    else:
        pen.stroke([(-0.5 * half, 0), (0.8 * half, 0)], shade(hull, 1.4), 0.08 * beam)
        pen.stroke([(0.1 * half, -0.7 * wide), (0.1 * half, 0.7 * wide)], shade(hull, 1.4), 0.06 * beam)
    pen.fill(box(-0.86 * half, -0.8 * wide, -0.62 * half, 0.8 * wide), bridge, opaque=False)
    pen.fill(box(-0.84 * half, -0.3 * wide, -0.74 * half, 0.3 * wide), (90, 80, 76), opaque=False)
    return pen.finish()


def _hold(rng: np.random.Generator, pen: Pen, half: float, wide: float) -> None:
    """Hatches or stacked containers between the bridge and the bow."""
    bays = int(rng.integers(5, 10))
    edges = np.linspace(-0.55, 0.7, bays + 1) * half
    mixed = rng.random() < 0.5
    plain = _CARGO[rng.integers(len(_CARGO))]
    for start, stop in pairwise(edges):
        colour = shade(_CARGO[rng.integers(len(_CARGO))] if mixed else plain, rng.uniform(0.8, 1.1))
        gap = 0.12 * (stop - start)
        pen.fill(box(start + gap, -0.68 * wide, stop - gap, 0.68 * wide), colour, opaque=False)


def vehicle(rng: np.random.Generator, size: float, angle: float) -> Sprite:
    """A car, sometimes a van; `size` bumper to bumper."""
    width = size / rng.uniform(2.05, 2.4)
    pen = Pen(size, width, angle)
    half, wide = size / 2, width / 2
    paint = shade(_PAINTS[rng.integers(len(_PAINTS))], rng.uniform(0.85, 1.1))
    glass = shade((46, 52, 60), rng.uniform(0.7, 1.3))
    outline = [(half, 0.55 * wide), (0.86 * half, wide), (-0.88 * half, wide), (-half, 0.7 * wide)]
    pen.fill(mirrored(outline), paint)
    if rng.random() < 0.15:  # a van: one long roof
        pen.fill(box(0.5 * half, -0.75 * wide, 0.68 * half, 0.75 * wide), glass, opaque=False)
        pen.stroke(box(-0.9 * half, -0.8 * wide, 0.45 * half, 0.8 * wide), shade(paint, 0.8), 0.04 * size, closed=True)
        return pen.finish()
    pen.fill(mirrored([(0.42 * half, 0.8 * wide), (-0.72 * half, 0.78 * wide)]), glass, opaque=False)
    pen.fill(box(-0.48 * half, -0.68 * wide, 0.16 * half, 0.68 * wide), shade(paint, 1.08), opaque=False)
    return pen.finish()
