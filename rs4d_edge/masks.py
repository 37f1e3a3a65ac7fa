"""From the network's low-resolution masks to the pixels of a frame, by the published rules, and nowhere else.

`RoiMask` (Mask R-CNN head): a map of probabilities over the detection's box, sampled bilinearly at the centres of the
frame's pixels (align_corners False, zeros outside the map), >= 0.5. A sample outside the box weighs less than half of a
probability, so that only the box's own pixels can be set, and only those are computed.

`FrameMask` (prompt head): a map of probabilities over the padded network input, resized bilinearly to that input,
cropped to the frame's part of it, resized bilinearly to the frame, >= 0.5. Every value is a weighted mean of map
values, so that only what lies around the values >= 0.5 can be set, and only that is kept and computed.

Both are products of two small matrices, one per axis, with the map: exact (weights are computed in float64) and fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from rs4d_edge.errors import RuntimeFailure
from rs4d_edge.resize import Geometry

BoolMask = npt.NDArray[np.bool_]
Probabilities = npt.NDArray[np.float32]
THRESHOLD = 0.5
MASK_NAN = "the runtime's masks hold NaN or infinite values: the model or its precision does not work on this runtime"
BLOCK_COLUMNS = 512
BLOCK_WORK = 1 << 18  # multiplications in one matrix product: OpenBLAS takes a second thread for more
CHUNK = 64  # pixels of the frame that share one matrix


class SoftMask(Protocol):
    """Something that can be rendered as a `MaskCrop`."""

    def render(self) -> MaskCrop:
        """The mask's crop of the frame."""


@dataclass(frozen=True, slots=True)
class MaskCrop:
    """A mask as a crop of the frame: `bits`, bool (rows, columns), whose first pixel is (`top`, `left`)."""

    top: int
    left: int
    bits: BoolMask

    @property
    def area(self) -> int:
        """Pixels that are set."""
        return int(np.count_nonzero(self.bits))

    def render(self) -> MaskCrop:
        """Itself: already rendered."""
        return self

    def paste(self, frame_mask: BoolMask) -> None:
        """Write the crop into an all-False mask of the frame, bool (height, width)."""
        rows, columns = self.bits.shape
        frame_mask[self.top : self.top + rows, self.left : self.left + columns] = self.bits


EMPTY_CROP = MaskCrop(top=0, left=0, bits=np.zeros((0, 0), dtype=np.bool_))


class InstanceMask:
    """One detection's mask: soft until it is first asked for, then its crop. Results that were filtered share it."""

    __slots__ = ("_mask",)

    def __init__(self, mask: SoftMask) -> None:
        self._mask = mask

    def crop(self) -> MaskCrop:
        """The crop, rendered by the first call, which also lets go of the low-resolution map."""
        if not isinstance(self._mask, MaskCrop):
            self._mask = self._mask.render()
        return self._mask


@dataclass(frozen=True, slots=True)
class RoiMask:
    """Probabilities over a box. `box_xyxy` in pixels of the frame, not clipped to it."""

    probabilities: Probabilities
    box_xyxy: tuple[float, float, float, float]
    frame_hw: tuple[int, int]

    def render(self) -> MaskCrop:
        """Pixels of the frame whose centres lie in the box."""
        x0, y0, x1, y1 = self.box_xyxy
        top, bottom = _centres_between(y0, y1, self.frame_hw[0])
        left, right = _centres_between(x0, x1, self.frame_hw[1])
        if top >= bottom or left >= right:
            return EMPTY_CROP
        rows, columns = self.probabilities.shape
        across = _box_weights(x0, x1, columns, left, right)
        wide = np.empty((rows, right - left), dtype=np.float32)
        for block, product in _products(self.probabilities, across.T):
            wide[block] = product
        bits = np.empty((bottom - top, right - left), dtype=np.bool_)
        for block, product in _products(_box_weights(y0, y1, rows, top, bottom), wide):
            np.greater_equal(product, THRESHOLD, out=bits[block])
        return MaskCrop(top=top, left=left, bits=bits)


def _centres_between(low: float, high: float, limit: int) -> tuple[int, int]:
    """First and one-past-last pixel of 0..limit-1 whose centre (index + 0.5) lies in [low, high]."""
    return max(math.ceil(low - 0.5), 0), min(math.floor(high - 0.5) + 1, limit)


def _box_weights(low: float, high: float, size: int, start: int, stop: int) -> Probabilities:
    """Weights (stop - start, size) of the map's samples at the centres of pixels start..stop-1."""
    at = (np.arange(start, stop) + (0.5 - low)) * (size / (high - low)) - 0.5
    before = np.floor(at)
    after = (at - before).astype(np.float32)
    column = before.astype(np.intp) + 1
    row = np.arange(stop - start)
    weights = np.zeros((stop - start, size + 2), dtype=np.float32)  # one column of zeros on either side of the map
    weights[row, column] = 1 - after
    weights[row, column + 1] = after
    return weights[:, 1:-1]


def _products(left: Probabilities, right: Probabilities) -> Iterator[tuple[tuple[slice, slice], Probabilities]]:
    """The product left @ right in blocks, each with its place, so small that a BLAS library takes no threads for it.

    Its threads wait for each other by spinning: while the engine's or another process's threads hold the cores, one
    large product of 0.1 ms was seen to take 20 ms.
    """
    inner = left.shape[1]
    for column in range(0, right.shape[1], BLOCK_COLUMNS):
        columns = slice(column, min(column + BLOCK_COLUMNS, right.shape[1]))
        step = max(1, BLOCK_WORK // (inner * (columns.stop - column)))
        for row in range(0, len(left), step):
            rows = slice(row, row + step)
            yield (rows, columns), left[rows] @ right[:, columns]


@dataclass(frozen=True, slots=True)
class FrameMask:
    """Probabilities over the padded network input: the part of a map of `map_hw` that can give a set pixel.

    `active` is (first row, last row, first column, last column) of the values >= 0.5 in the map, both ends included;
    `probabilities` is a window around them that starts at row `top` and column `left` of the map.
    """

    probabilities: Probabilities
    top: int
    left: int
    active: tuple[int, int, int, int]
    map_hw: tuple[int, int]
    geometry: Geometry

    def render(self) -> MaskCrop:
        """Pixels of the frame that see one of the active values."""
        down, across = frame_axes(self.map_hw, self.geometry)
        top, bottom = down.reach(*self.active[:2])
        left, right = across.reach(*self.active[2:])
        if top >= bottom or left >= right:
            return EMPTY_CROP  # it lies in the padding
        tall = np.empty((bottom - top, self.probabilities.shape[1]), dtype=np.float32)
        for pixels, part, span in down.parts(top, bottom, self.top):
            for block, product in _products(part, self.probabilities[span]):
                tall[pixels][block] = product
        bits = np.empty((bottom - top, right - left), dtype=np.bool_)
        for pixels, part, span in across.parts(left, right, self.left):
            for block, product in _products(tall[:, span], part.T):
                np.greater_equal(product, THRESHOLD, out=bits[:, pixels][block])
        return MaskCrop(top=top, left=left, bits=bits)


@dataclass(frozen=True, slots=True)
class FrameAxis:
    """Both bilinear steps along one axis: a banded matrix (pixels of the frame, size of the map), kept in blocks.

    `first` and `last` are the lowest and highest index of the map that each pixel sees. Block k holds the weights of
    pixels k * `CHUNK` onwards, and the map index of its first column.
    """

    first: npt.NDArray[np.intp]
    last: npt.NDArray[np.intp]
    blocks: tuple[tuple[Probabilities, int], ...]

    @property
    def margin(self) -> int:
        """How many map indices beyond an active one a pixel that sees it can also see."""
        return int((self.last - self.first).max())

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """First and one-past-last pixel that sees any of the map's indices first..last."""
        return int(np.searchsorted(self.last, first)), int(np.searchsorted(self.first, last, side="right"))

    def parts(self, start: int, stop: int, origin: int) -> Iterator[tuple[slice, Probabilities, slice]]:
        """Weights of pixels start..stop-1 in pieces: slice of the pixels, weights, slice of a window from `origin`."""
        for pixel in range(start - start % CHUNK, stop, CHUNK):
            weights, column = self.blocks[pixel // CHUNK]
            low, high = max(start, pixel), min(stop, pixel + CHUNK)
            seen = slice(int(self.first[low]), int(self.last[high - 1]) + 1)
            part = weights[low - pixel : high - pixel, seen.start - column : seen.stop - column]
            yield slice(low - start, high - start), part, slice(seen.start - origin, seen.stop - origin)


def frame_axes(map_hw: tuple[int, int], geometry: Geometry) -> tuple[FrameAxis, FrameAxis]:
    """The two axes' matrices (rows, columns) from a map to the frame."""
    rows, columns = (
        _frame_axis(size, padded, int(frame * (valid / frame)), frame)  # in doubles, so that it rounds as published
        for size, padded, valid, frame in zip(
            map_hw, geometry.input_hw, geometry.valid_hw, geometry.frame_hw, strict=True
        )
    )
    return rows, columns


@lru_cache(maxsize=16)
def _frame_axis(size: int, padded: int, cropped: int, frame: int) -> FrameAxis:
    """Map of `size` -> `padded` pixels -> the first `cropped` of them -> `frame` pixels."""
    outer_low, outer_high, outer_weight = _taps(max(cropped, 1), frame)
    inner_low, inner_high, inner_weight = _taps(size, padded)
    first, last = inner_low[outer_low], inner_high[outer_high]
    terms = (
        (inner_low[outer_low], (1 - outer_weight) * (1 - inner_weight[outer_low])),
        (inner_high[outer_low], (1 - outer_weight) * inner_weight[outer_low]),
        (inner_low[outer_high], outer_weight * (1 - inner_weight[outer_high])),
        (inner_high[outer_high], outer_weight * inner_weight[outer_high]),
    )
    blocks = []
    for start in range(0, frame, CHUNK):
        pixels = slice(start, min(start + CHUNK, frame))
        column = int(first[start])
        weights = np.zeros((pixels.stop - start, int(last[pixels.stop - 1]) + 1 - column))
        row = np.arange(pixels.stop - start)
        for index, weight in terms:
            weights[row, index[pixels] - column] += weight[pixels]
        blocks.append((weights.astype(np.float32), column))
    return FrameAxis(first=first, last=last, blocks=tuple(blocks))


def _taps(size: int, new_size: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Bilinear resize (align_corners False, edges repeated): the two source indices and the second one's weight."""
    at = np.clip((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0, size - 1)
    low = np.floor(at).astype(np.intp)
    return low, np.minimum(low + 1, size - 1), at - low


def roi_masks(maps: Probabilities, boxes_xyxy: npt.NDArray[np.float32], frame_hw: tuple[int, int]) -> list[SoftMask]:
    """Masks of the bbox head: maps (n, h, w), which are kept, and unclipped boxes (n, 4) in pixels of the frame."""
    if not np.isfinite(maps).all():
        raise RuntimeFailure(MASK_NAN)
    corners = boxes_xyxy.tolist()
    return [RoiMask(soft, (x0, y0, x1, y1), frame_hw) for soft, (x0, y0, x1, y1) in zip(maps, corners, strict=True)]


def frame_masks(maps: Probabilities, kept: npt.NDArray[np.intp], geometry: Geometry) -> list[SoftMask]:
    """Masks of the prompt head: of maps (d, h, w), which are only borrowed, those at `kept`."""
    map_hw = (maps.shape[1], maps.shape[2])
    margins = tuple(axis.margin for axis in frame_axes(map_hw, geometry))
    return [_frame_mask(maps[index], map_hw, (margins[0], margins[1]), geometry) for index in kept]


def _frame_mask(soft: Probabilities, map_hw: tuple[int, int], margins: tuple[int, int], geometry: Geometry) -> SoftMask:
    left, top, columns, rows = cv2.boundingRect((soft >= THRESHOLD).view(np.uint8))
    if rows == 0:
        if not np.isfinite(soft).all():
            raise RuntimeFailure(MASK_NAN)
        return EMPTY_CROP
    window_top, window_left = max(top - margins[0], 0), max(left - margins[1], 0)
    window = soft[window_top : top + rows + margins[0], window_left : left + columns + margins[1]].copy()
    if not np.isfinite(window).all():
        raise RuntimeFailure(MASK_NAN)
    active = (top, top + rows - 1, left, left + columns - 1)
    return FrameMask(window, window_top, window_left, active, map_hw, geometry)
