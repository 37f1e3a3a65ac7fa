"""The picture in the making: what lies where, what is still free, and who hides whom."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rs4d_edge.scenes.ground import Bools, Floats, blend
from rs4d_edge.scenes.pen import Colour, Sprite

_CELL = 4  # free space is kept on a grid of this many pixels
_LEAST_VISIBLE = 0.4  # an object of which less would be seen is not drawn, so that nothing goes unlabelled


class Place(NamedTuple):
    """A rectangle on the ground: centre, extent along its own axes in pixels, and angle in radians."""

    x: float
    y: float
    length: float
    width: float
    angle: float

    def point(self, along: float, across: float) -> tuple[float, float]:
        """Frame coordinates of a point given in the rectangle's own, from its centre."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self.x + along * cos - across * sin, self.y + along * sin + across * cos

    def corners(self, margin: float = 0.0) -> NDArray[np.float64]:
        """The four corners (4, 2), the rectangle widened by a margin."""
        along, across = self.length / 2 + margin, self.width / 2 + margin
        return np.array(
            [self.point(a, b) for a, b in ((-along, -across), (along, -across), (along, across), (-along, across))]
        )


class Instance(NamedTuple):
    """One labelled object; `mask` (h, w) covers the frame."""

    label: int
    mask: Bools


class Canvas:
    """Holds the image (h, w, 3) float32 that everything is laid on, free space on land and water, and the instances."""

    def __init__(self, image: Floats, water: Bools, rng: np.random.Generator) -> None:
        self.image = image
        self.size_hw = (image.shape[0], image.shape[1])
        wet = water[::_CELL, ::_CELL]
        near_shore = cv2.dilate(wet.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        self.free_water: Bools = wet & ~(cv2.dilate((~wet).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
        self.free_land: Bools = ~near_shore
        self.instances: list[Instance] = []
        self.sun = rng.uniform(0, 2 * math.pi)
        self._shadow_length = rng.uniform(0.3, 0.9)
        self._shadow_depth = rng.uniform(0.4, 0.62)

    def _cells(self, corners: NDArray[np.float64]) -> tuple[slice, slice, Bools]:
        """The part of the grid under a convex polygon, as two slices and a mask within them."""
        grid_hw = self.free_land.shape
        points = np.floor(corners / _CELL).astype(np.int32)
        (x0, y0), (x1, y1) = np.maximum(points.min(0), 0), points.max(0) + 1
        x1, y1 = min(int(x1), grid_hw[1]), min(int(y1), grid_hw[0])
        x0, y0 = min(int(x0), x1), min(int(y0), y1)
        under = np.zeros((y1 - y0, x1 - x0), np.uint8)
        if under.size:
            cv2.fillConvexPoly(under, points - (x0, y0), 1)
        return slice(y0, y1), slice(x0, x1), under > 0

    def find(
        self,
        rng: np.random.Generator,
        length: float,
        width: float,
        angles: tuple[float, ...],
        *,
        afloat: bool = False,
        margin: float = 4.0,
        overhang: float = 0.0,
        tries: int = 30,
    ) -> Place | None:
        """A free rectangle at one of the angles, or None. `overhang` of its size may lie outside of the frame."""
        free = self.free_water if afloat else self.free_land
        height, across = self.size_hw
        for _ in range(tries):
            angle = angles[rng.integers(len(angles))]
            cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
            reach_x = (length * cos + width * sin) * (0.5 - overhang)
            reach_y = (length * sin + width * cos) * (0.5 - overhang)
            if 2 * reach_x >= across or 2 * reach_y >= height:
                continue
            place = Place(
                rng.uniform(reach_x, across - reach_x), rng.uniform(reach_y, height - reach_y), length, width, angle
            )
            rows, columns, under = self._cells(place.corners(margin))
            if under.any() and bool(free[rows, columns][under].all()):
                return place
        return None

    def occupy(self, place: Place, margin: float = 3.0) -> None:
        """Take a rectangle out of the free space."""
        rows, columns, under = self._cells(place.corners(margin))
        self.free_land[rows, columns] &= ~under
        self.free_water[rows, columns] &= ~under

    def occupy_pixels(self, mask: Bools) -> None:
        """Take the pixels of a frame-sized mask out of the free space."""
        taken = cv2.dilate(mask.astype(np.uint8), np.ones((_CELL, _CELL), np.uint8))[::_CELL, ::_CELL] > 0
        self.free_land &= ~taken
        self.free_water &= ~taken

    def slab(self, place: Place, colour: Colour, opacity: float = 1.0) -> None:
        """Pave a rectangle, keeping some of the ground's texture."""
        self.pave(place.corners(), colour, opacity)

    def pave(self, outline: NDArray[np.float64], colour: Colour, opacity: float = 1.0) -> None:
        """Pave a polygon (n, 2) in frame coordinates."""
        low = np.clip(np.floor(outline.min(0)) - 2, 0, None).astype(int)
        high = np.clip(np.ceil(outline.max(0)) + 2, 0, (self.size_hw[1], self.size_hw[0])).astype(int)
        patch = self.image[low[1] : high[1], low[0] : high[0]]
        if not patch.size:
            return
        cover = np.zeros(patch.shape[:2], np.uint8)
        cv2.fillPoly(cover, [np.round((outline - low) * 16).astype(np.int32)], (255,), cv2.LINE_AA, 4)
        brightness = patch[..., 1]
        texture = 1 + 0.3 * np.clip(brightness / np.maximum(cv2.blur(brightness, (9, 9)), 1) - 1, -0.2, 0.2)
        blend(patch, cover.astype(np.float32) * (opacity / 255), np.asarray(colour, np.float32) * texture[..., None])

    def shows(self, label: int, x: float, y: float, radius: float) -> bool:
        """Whether an object of this class is already seen within a square around (x, y)."""
        rows = slice(max(0, int(y - radius)), max(0, int(y + radius)))
        columns = slice(max(0, int(x - radius)), max(0, int(x + radius)))
        return any(i.label == label and bool(i.mask[rows, columns].any()) for i in self.instances)

    def lay(self, sprite: Sprite, x: float, y: float, *, height: float = 0.0, label: int | None = None) -> bool:
        """Lay a sprite with its centre at (x, y), its shadow first; `height` in pixels sets the shadow's length.

        Gives False, and draws nothing, when too little of a labelled object would lie inside the frame.
        """
        rows, columns, part_rows, part_columns = self._overlap(sprite.alpha.shape, x, y)
        mask = sprite.mask[part_rows, part_columns]
        if label is not None and mask.sum() < _LEAST_VISIBLE * sprite.mask.sum():
            return False
        if height:
            self._cast_shadow(sprite, x, y, height)
        alpha = sprite.alpha[part_rows, part_columns]
        patch = self.image[rows, columns]
        patch *= 1 - alpha[..., None]
        patch += sprite.rgb[part_rows, part_columns]
        hidden = alpha > 0.5
        for other in self.instances:
            other.mask[rows, columns] &= ~hidden
        if label is not None:
            full = np.zeros(self.size_hw, np.bool_)
            full[rows, columns] = mask
            self.instances.append(Instance(label, full))
        return True

    def _cast_shadow(self, sprite: Sprite, x: float, y: float, height: float) -> None:
        length = height * self._shadow_length
        pad = math.ceil(length) + 2
        high, wide = sprite.alpha.shape
        dark = np.zeros((high + 2 * pad, wide + 2 * pad), np.float32)
        for away in np.arange(1.0, length + 1.0):
            top = pad - round(away * math.sin(self.sun))
            left = pad - round(away * math.cos(self.sun))
            window = dark[top : top + high, left : left + wide]
            np.maximum(window, sprite.alpha, out=window)
        rows, columns, part_rows, part_columns = self._overlap(dark.shape, x, y)
        if rows.start < rows.stop and columns.start < columns.stop:
            shadow = cv2.blur(dark, (3, 3))[part_rows, part_columns]
            self.image[rows, columns] *= 1 - self._shadow_depth * shadow[..., None]

    def _overlap(self, shape_hw: tuple[int, ...], x: float, y: float) -> tuple[slice, slice, slice, slice]:
        """Where a patch centred at (x, y) lies in the frame, and which part of the patch that is."""
        high, wide = shape_hw
        top, left = round(y - high / 2), round(x - wide / 2)
        y0, x0 = min(max(top, 0), self.size_hw[0]), min(max(left, 0), self.size_hw[1])
        y1, x1 = max(min(top + high, self.size_hw[0]), y0), max(min(left + wide, self.size_hw[1]), x0)
        return slice(y0, y1), slice(x0, x1), slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
