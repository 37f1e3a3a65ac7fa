"""The land and water that objects stand on: noise in several octaves, woods, fields, coasts, rivers, roads."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

_FARTHEST_MEAN = 15.0  # of a frame's noise, in its own deviations: beyond, nothing but black or white would be left
_LEAST_DEVIATION = 1e-3


class Palette(NamedTuple):
    """Mean colours (RGB, 0..255) of one landscape."""

    grass: tuple[int, int, int]
    soil: tuple[int, int, int]
    wood: tuple[int, int, int]
    water: tuple[int, int, int]
    asphalt: tuple[int, int, int]


PALETTES = (
    Palette((72, 86, 58), (116, 104, 84), (42, 56, 38), (34, 50, 54), (104, 104, 102)),
    Palette((92, 96, 68), (136, 122, 98), (56, 68, 46), (46, 62, 52), (118, 116, 112)),
    Palette((104, 102, 82), (150, 138, 118), (66, 72, 54), (36, 58, 76), (130, 128, 124)),
    Palette((62, 82, 52), (104, 92, 72), (34, 50, 32), (24, 36, 42), (92, 92, 92)),
    Palette((86, 104, 76), (128, 122, 104), (50, 70, 50), (58, 74, 86), (122, 122, 122)),
)


class River(NamedTuple):
    """Centre line `v = swing * sin(u / period + phase)` in coordinates turned by `angle` around the frame's centre."""

    angle: float
    swing: float
    period: float
    phase: float

    def at(self, u: float, size_hw: tuple[int, int]) -> tuple[float, float, float]:
        """Point (x, y) of the centre line and the direction of flow there, in radians."""
        v = self.swing * math.sin(u / self.period + self.phase)
        slope = self.swing / self.period * math.cos(u / self.period + self.phase)
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        x = size_hw[1] / 2 + u * cos - v * sin
        y = size_hw[0] / 2 + u * sin + v * cos
        return x, y, self.angle + math.atan(slope)


def noise(rng: np.random.Generator, size_hw: tuple[int, int], coarsest: float, octaves: int = 4) -> Floats:
    """Smooth noise with unit variance; `coarsest` is the size in pixels of the largest blobs, each octave halves it."""
    height, width = size_hw
    if coarsest / 2 ** (octaves - 1) >= 4:  # nothing finer than four pixels: half the resolution says it all
        half = noise(rng, ((height + 1) // 2, (width + 1) // 2), coarsest / 2, octaves)
        return np.asarray(cv2.resize(half, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    total = np.zeros(size_hw, np.float32)
    weight = 1.0
    for octave in range(octaves):
        cell = coarsest / 2**octave
        if cell < 1:
            break
        grid = rng.standard_normal((math.ceil(height / cell) + 3, math.ceil(width / cell) + 3)).astype(np.float32)
        if cell > 1:
            scaled = (round(grid.shape[1] * cell), round(grid.shape[0] * cell))
            grid = cv2.resize(grid, scaled, interpolation=cv2.INTER_CUBIC if cell > 4 else cv2.INTER_LINEAR).astype(
                np.float32
            )
        total += weight * grid[:height, :width]
        weight *= 0.6
    mean, deviation = float(total.mean()), float(total.std())
    if abs(mean) > _FARTHEST_MEAN * deviation:  # the frame lies within one blob, of which its slope alone is to show
        total -= mean
    return np.asarray(total / max(deviation, _LEAST_DEVIATION), np.float32)


def blend(image: Floats, cover: Floats, colour: Floats | tuple[float, ...]) -> None:
    """Lay a colour, or an image, over `image` where `cover` (h, w) is 1; in place."""
    change = np.asarray(colour, np.float32) - image
    change *= cover[..., None]
    image += change


def soft_step(field: Floats, width: float) -> Floats:
    """0 below 0, 1 above `width`, linear between."""
    return np.asarray(np.clip(field / width, 0, 1), np.float32)


def paint_land(rng: np.random.Generator, size_hw: tuple[int, int], palette: Palette, wooded: float) -> Floats:
    """Grass and soil with woods on about the share `wooded`; (h, w, 3) float32."""
    dryness = soft_step(noise(rng, size_hw, 160) - 0.2, 2.0)
    image = np.empty((*size_hw, 3), np.float32)
    image[:] = palette.grass
    blend(image, dryness, palette.soil)
    for _ in range(int(rng.integers(0, 4))):
        _plough_field(rng, image, palette)
    fine = noise(rng, size_hw, 12, 4)
    image *= (1 + 0.05 * fine + 0.05 * noise(rng, size_hw, 70, 3))[..., None]
    if wooded > 0:
        threshold = float(np.quantile(shape := noise(rng, size_hw, 110), 1 - wooded))
        crowns = noise(rng, size_hw, 9, 3)
        lit = crowns - np.roll(crowns, (2, 2), (0, 1))
        wood = np.asarray(palette.wood, np.float32) * (1 + 0.16 * crowns + 0.14 * lit)[..., None]
        blend(image, soft_step(shape + 0.12 * crowns - threshold, 0.08), wood)
    return image


def _plough_field(rng: np.random.Generator, image: Floats, palette: Palette) -> None:
    """One rectangle of tilled or mown land, with furrows."""
    height, width = image.shape[:2]
    angle = rng.uniform(0, math.pi)
    centre = (rng.uniform(0, width), rng.uniform(0, height))
    corners = cv2.boxPoints((centre, tuple(rng.uniform(0.15, 0.45, 2) * width), math.degrees(angle)))
    cover = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(cover, corners.astype(np.int32), 255, cv2.LINE_AA)
    rows = np.arange(width, dtype=np.float32) * math.cos(angle) + np.arange(height, dtype=np.float32)[
        :, None
    ] * math.sin(angle)
    furrows = 1 + 0.05 * np.sin(rows * rng.uniform(0.5, 1.4))
    base = palette.grass if rng.random() < 0.5 else palette.soil
    colour = np.asarray(base, np.float32) * rng.uniform(0.8, 1.15)
    blend(image, cover.astype(np.float32) / 255 * 0.8, colour * furrows[..., None])


def coast(rng: np.random.Generator, size_hw: tuple[int, int], share: float) -> Floats:
    """A field that is positive (pixels from the shore) on the water's side of a coast; water covers about `share`."""
    height, width = size_hw
    angle = rng.uniform(0, 2 * math.pi)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    field = columns * math.cos(angle) + rows * math.sin(angle)
    roughness = rng.choice((1.5, 10.0, 22.0))
    field += roughness * noise(rng, size_hw, 120, 4)
    return np.asarray(field - np.quantile(field[::4, ::4], 1 - share), np.float32)


def river(rng: np.random.Generator, size_hw: tuple[int, int], width: float) -> tuple[Floats, River]:
    """A field that is positive inside a winding river of about `width` pixels, and its centre line."""
    extent = max(size_hw)
    line = River(
        angle=rng.uniform(0, math.pi),
        swing=rng.uniform(0.0, 0.12) * extent,
        period=rng.uniform(0.16, 0.35) * extent,
        phase=rng.uniform(0, 2 * math.pi),
    )
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]].astype(np.float32)
    x, y = columns - size_hw[1] / 2, rows - size_hw[0] / 2
    u = x * math.cos(line.angle) + y * math.sin(line.angle)
    v = y * math.cos(line.angle) - x * math.sin(line.angle)
    distance = np.abs(v - line.swing * np.sin(u / line.period + line.phase))
    return np.asarray(width / 2 - distance + 0.03 * width * noise(rng, size_hw, 60), np.float32), line


def flood(rng: np.random.Generator, image: Floats, field: Floats, palette: Palette) -> Bools:
    """Paint water where `field` (pixels from the shore) is positive, and a shore line beside it; gives its mask."""
    size_hw = image.shape[:2]
    shore = (188, 176, 146) if rng.random() < 0.3 else (120, 116, 106) if rng.random() < 0.5 else palette.wood
    band = rng.uniform(3, 12)
    blend(image, soft_step(field + band, 2.0) * 0.85, np.asarray(shore, np.float32))
    tint = np.asarray(palette.water, np.float32) * rng.uniform(0.75, 1.25) + rng.uniform(-6, 6, 3)
    ripples = 1 + 0.05 * noise(rng, size_hw, 200, 3) + 0.035 * noise(rng, size_hw, 5, 3)
    shallow = soft_step(40 - field, 40.0)[..., None] * rng.uniform(0, 0.25)
    water = tint.astype(np.float32) * ripples[..., None] * (1 + shallow)
    blend(image, soft_step(field, 1.5), water)
    return np.asarray(field > 0.75)


def draw_road(
    image: Floats, start: tuple[float, float], stop: tuple[float, float], width: float, palette: Palette
) -> Bools:
    """Draw a straight road with kerbs and a dashed centre line; gives the pixels that it covers."""
    start_at = np.array(start)
    along = np.array(stop) - start_at
    length = float(np.hypot(*along))
    asphalt = np.asarray(palette.asphalt, np.float32)
    blend(image, _line(image, start, stop, width + 3), asphalt * 1.22)
    cover = _line(image, start, stop, width)
    blend(image, cover, asphalt * 0.92)
    if width >= 10:
        dashes = np.zeros(image.shape[:2], np.uint8)
        for position in np.arange(0, length, 18.0):
            a, b = (start_at + along / length * p for p in (position, position + 8.0))
            from_xy, to_xy = (np.round(end * 16).astype(int).tolist() for end in (a, b))
            cv2.line(dashes, from_xy, to_xy, 190, 1, cv2.LINE_AA, 4)
        blend(image, dashes.astype(np.float32) / 255 * 0.6, (214, 212, 200))
    return np.asarray(cover > 0.5)


def _line(image: Floats, start: tuple[float, float], stop: tuple[float, float], width: float) -> Floats:
    cover = np.zeros(image.shape[:2], np.uint8)
    along = np.array(stop) - np.array(start)
    across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6) * width / 2
    corners = np.array([start + across, stop + across, stop - across, start - across])
    cv2.fillConvexPoly(cover, np.round(corners * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    return cover.astype(np.float32) / 255
