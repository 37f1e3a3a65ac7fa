"""Sports grounds seen from above: baseball diamonds, tennis and basketball courts, running tracks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rs4d_edge.scenes.pen import Colour, Pen, Sprite, arc, box, shade

COURT_COLOURS = ((66, 92, 74), (62, 72, 108), (96, 100, 98), (70, 96, 92), (118, 72, 60), (84, 88, 78))
SURROUND_COLOURS = ((132, 78, 62), (74, 92, 68), (104, 106, 104), (62, 84, 78), (118, 84, 74))
Doubles = NDArray[np.float64]
_CLAYS = ((176, 142, 104), (190, 164, 128), (164, 118, 84), (200, 180, 150))
_GRASS = (62, 86, 52)


def baseball_diamond(rng: np.random.Generator, size: float, angle: float) -> Sprite:
    """The clay of a diamond, home plate towards -x; `size` is about the side of its box."""
    side = 0.52 * size  # between two bases
    pen = Pen(1.5 * size, 1.5 * size, angle)
    clay = shade(_CLAYS[rng.integers(len(_CLAYS))], rng.uniform(0.85, 1.05))
    home = np.array([-0.5 * side * math.sqrt(2), 0.0])
    mound = home + (0.62 * side, 0.0)
    reach = rng.uniform(0.94, 1.1) * side
    foul = rng.uniform(0.08, 0.16) * side  # clay outside the foul lines
    outer = _inside_foul_lines(np.array(arc(mound[0], mound[1], reach, reach, steps=96)), home, foul)
    pen.fill(outer, clay)
    pen.disc(home[0], home[1], 0.2 * side, clay)
    if rng.random() < 0.7:
        inset = rng.uniform(0.1, 0.16) * side * math.sqrt(2)
        centre = home + (side / math.sqrt(2), 0.0)
        radius = side / math.sqrt(2) - inset
        grass = [(centre[0] + radius, 0), (centre[0], radius), (centre[0] - radius, 0), (centre[0], -radius)]
        pen.fill(grass, shade(_GRASS, rng.uniform(0.8, 1.15)), opaque=False)
        pen.disc(mound[0], mound[1], 0.09 * side, clay, opaque=False)
    else:
        pen.disc(mound[0], mound[1], 0.05 * side, shade(clay, 1.15), opaque=False)
    pen.stroke([home + 0.7 * side, home, home + (0.7 * side, -0.7 * side)], shade(clay, 1.2), 0.4)
    return pen.finish()


def _inside_foul_lines(points: Doubles, home: Doubles, margin: float) -> Doubles:
    """Clip a circle's points to the quarter plane that opens from home plate, widened by a margin."""
    apex = home[0] - margin * math.sqrt(2)
    clipped: Doubles = points.copy()
    clipped[:, 0] = np.maximum(clipped[:, 0], apex)
    limit = clipped[:, 0] - apex
    clipped[:, 1] = np.clip(clipped[:, 1], -limit, limit)
    return clipped


def tennis_court(rng: np.random.Generator, size: float, angle: float, colour: Colour | None = None) -> Sprite:
    """The marked rectangle of a court, 23.8 m x 11 m, `size` long."""
    metre = size / 23.77
    half, wide, single, service = 11.885 * metre, 5.485 * metre, 4.115 * metre, 6.4 * metre
    pen = Pen(size, 2 * wide, angle)
    pen.fill(box(-half, -wide, half, wide), colour if colour is not None else _pick(rng, COURT_COLOURS))
    white = shade((226, 228, 222), rng.uniform(0.85, 1.0))
    line = max(0.3, 0.2 * metre)
    inset = 0.5 * line
    pen.stroke(box(inset - half, inset - wide, half - inset, wide - inset), white, line, closed=True)
    for y in (-single, single):
        pen.stroke([(-half, y), (half, y)], white, line)
    for x in (-service, service):
        pen.stroke([(x, -single), (x, single)], white, line)
    pen.stroke([(-service, 0), (service, 0)], white, line)
    pen.stroke([(0, -wide), (0, wide)], (44, 48, 46), max(0.4, 0.25 * metre))
    return pen.finish()


def basketball_court(rng: np.random.Generator, size: float, angle: float, colour: Colour | None = None) -> Sprite:
    """A court of 28 m x 15 m, `size` long."""
    metre = size / 28
    half, wide = 14 * metre, 7.5 * metre
    pen = Pen(size, 2 * wide, angle)
    ground = colour if colour is not None else _pick(rng, COURT_COLOURS)
    pen.fill(box(-half, -wide, half, wide), ground)
    white = shade((220, 220, 212), rng.uniform(0.8, 1.0))
    line = max(0.3, 0.15 * metre)
    key = _pick(rng, SURROUND_COLOURS) if rng.random() < 0.4 else ground
    for end in (-1, 1):
        pen.fill(box(end * half, -2.45 * metre, end * (half - 5.8 * metre), 2.45 * metre), key, opaque=False)
        pen.stroke(box(end * half, -2.45 * metre, end * (half - 5.8 * metre), 2.45 * metre), white, line, closed=True)
        facing = math.pi if end > 0 else 0.0
        free_throw = arc(end * (half - 5.8 * metre), 0, 1.8 * metre, 1.8 * metre, facing - 1.6, facing + 1.6)
        three_points = arc(end * (half - 1.6 * metre), 0, 6.75 * metre, 6.75 * metre, facing - 1.6, facing + 1.6)
        pen.stroke(free_throw, white, line)
        pen.stroke(three_points, white, line)
    pen.stroke(arc(0, 0, 1.8 * metre, 1.8 * metre), white, line, closed=True)
    pen.stroke([(0, -wide), (0, wide)], white, line)
    inset = 0.5 * line
    pen.stroke(box(inset - half, inset - wide, half - inset, wide - inset), white, line, closed=True)
    return pen.finish()


def ground_track_field(rng: np.random.Generator, size: float, angle: float) -> Sprite:
    """A running track of `size` length around a pitch."""
    width = size * rng.uniform(0.5, 0.58)
    pen = Pen(size, width, angle)
    track = shade(((168, 82, 62), (150, 70, 56), (74, 74, 78), (128, 88, 76))[rng.integers(4)], rng.uniform(0.85, 1.1))
    grass = shade(_GRASS, rng.uniform(0.75, 1.25))
    lanes = rng.uniform(0.085, 0.11) * size
    pen.fill(_stadium(size, width), track)
    for lane in range(1, 6):
        shrink = 2 * lanes * lane / 6
        pen.stroke(_stadium(size - shrink, width - shrink), shade(track, 1.16), 0.3, closed=True)
    pen.fill(_stadium(size - 2 * lanes, width - 2 * lanes), shade(grass, 0.94), opaque=False)
    pitch, across = (size - width) * 0.56, width / 2 - lanes * 1.15
    stripes = int(rng.integers(8, 13))
    edges = np.linspace(-pitch, pitch, stripes + 1)
    mown = rng.uniform(1.0, 1.16)
    for index in range(stripes):
        colour = shade(grass, mown if index % 2 else 1.0)
        pen.fill(box(edges[index], -across, edges[index + 1], across), colour, opaque=False)
    if rng.random() < 0.7:
        white = shade(grass, 1.9)
        pen.stroke(box(-pitch, -across, pitch, across), white, 0.4, closed=True)
        for x in edges[1:-1]:
            pen.stroke([(x, -across), (x, across)], white, 0.3)
    return pen.finish()


def _stadium(length: float, width: float) -> list[tuple[float, float]]:
    """Two half circles joined by straights."""
    radius, straight = width / 2, (length - width) / 2
    right = arc(straight, 0, radius, radius, -math.pi / 2, math.pi / 2)
    left = arc(-straight, 0, radius, radius, math.pi / 2, 3 * math.pi / 2)
    return right + left


def _pick(rng: np.random.Generator, colours: tuple[tuple[int, int, int], ...]) -> tuple[float, float, float]:
    return shade(colours[rng.integers(len(colours))], rng.uniform(0.8, 1.2))
