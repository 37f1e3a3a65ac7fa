"""Drawing one object in its own coordinates: a pen that turns, smooths and remembers what belongs to the object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Colour = Sequence[float]
_FRACTION_BITS = 4


class Sprite(NamedTuple):
    """A drawn object, ready to be laid on an image.

    `rgb` (h, w, 3) float32 0..255 is already multiplied by `alpha` (h, w) float32 0..1, the share of each pixel that
    the object covers; `mask` (h, w) bool is what an annotator would outline.
    """

    rgb: NDArray[np.floating[Any]]
    alpha: NDArray[np.floating[Any]]
    mask: NDArray[np.bool_]


def shade(colour: Colour, factor: float) -> tuple[float, float, float]:
    """The colour made darker (factor < 1) or lighter, clipped to 0..255."""
    r, g, b = (min(max(channel * factor, 0.0), 255.0) for channel in colour)
    return r, g, b


def box(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    """Corners of an axis-aligned rectangle."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def mirrored(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A closed outline from its half with y >= 0, given from front to back."""
    return [*points, *((x, -y) for x, y in reversed(points))]


def arc(
    x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 2 * math.pi, steps: int = 32
) -> list[tuple[float, float]]:
    """Points along an ellipse's arc, angles in radians from the x axis towards the y axis."""
    angles = np.linspace(start, stop, steps)
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


class Pen:
    """Draws on a patch that holds a `length` x `width` rectangle (pixels), turned by `angle` radians.

    Coordinates are in pixels around the patch's centre: x runs along the length, y across it. Everything is drawn
    several times too large and averaged down, so that edges are as soft as a camera's.
    """

    def __init__(self, length: float, width: float, angle: float) -> None:
        cos, sin = math.cos(angle), math.sin(angle)
        across = abs(length * cos) + abs(width * sin)
        down = abs(length * sin) + abs(width * cos)
        self._turn = np.array([[cos, sin], [-sin, cos]])  # rows: images of the x and y axes
        self._size_hw = (math.ceil(down) + 4, math.ceil(across) + 4)
        self._zoom = 4 if max(self._size_hw) < 120 else 2
        zoomed = (self._size_hw[0] * self._zoom, self._size_hw[1] * self._zoom)
        self._rgb = np.zeros((*zoomed, 3), np.uint8)
        self._alpha = np.zeros(zoomed, np.uint8)
        self._outline: NDArray[np.uint8] | None = None

    def _fixed_point(self, points: ArrayLike) -> NDArray[np.int32]:
        centre = np.array([self._size_hw[1], self._size_hw[0]]) / 2
        placed = (np.asarray(points, np.float64) @ self._turn + centre) * self._zoom - 0.5
        return np.asarray(np.round(placed * (1 << _FRACTION_BITS)), np.int32)

    def fill(self, points: ArrayLike, colour: Colour, *, opaque: bool = True) -> None:
        """Fill a polygon; `opaque=False` paints on what is there without adding to the object's outline."""
        fixed = self._fixed_point(points)
        cv2.fillPoly(self._rgb, [fixed], tuple(colour), shift=_FRACTION_BITS)
        if opaque:
            cv2.fillPoly(self._alpha, [fixed], (255,), shift=_FRACTION_BITS)

    def disc(self, x: float, y: float, radius: float, colour: Colour, *, opaque: bool = True) -> None:
        """Fill a circle."""
        self.fill(arc(x, y, radius, radius), colour, opaque=opaque)

    def stroke(self, points: ArrayLike, colour: Colour, width: float = 0.5, *, closed: bool = False) -> None:
        """Draw a line of the given width in pixels on what is there."""
        thickness = max(1, round(width * self._zoom))
        fixed = self._fixed_point(points)
        cv2.polylines(self._rgb, [fixed], closed, tuple(colour), thickness, cv2.LINE_8, _FRACTION_BITS)

    def outline(self, points: ArrayLike) -> None:
        """Make this polygon the annotated mask, where it is not simply what was painted."""
        if self._outline is None:
            self._outline = np.zeros_like(self._alpha)
        cv2.fillPoly(self._outline, [self._fixed_point(points)], (255,), shift=_FRACTION_BITS)

    def finish(self) -> Sprite:
        """Average down to pixels."""
        size_wh = (self._size_hw[1], self._size_hw[0])
        self._rgb[self._alpha == 0] = 0
        rgb = cv2.resize(self._rgb, size_wh, interpolation=cv2.INTER_AREA).astype(np.float32)
        alpha = cv2.resize(self._alpha, size_wh, interpolation=cv2.INTER_AREA) / np.float32(255)
        drawn = self._alpha if self._outline is None else self._outline
        mask = cv2.resize(drawn, size_wh, interpolation=cv2.INTER_AREA) >= 128
        return Sprite(rgb, alpha, mask)
