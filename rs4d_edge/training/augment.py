"""Mask-aware augmentation: from image records to one square training sample.

Overhead imagery has no up, so turns and flips are free; small data sets need a wide range of scales and contents. One
affine map per source image goes straight to the output: the picture is resampled once, and instance shapes move as
polygons and are rasterised once, by COCO's rule, at the output's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from rs4d_edge.reference.config import IMAGE_MEAN_RGB
from rs4d_edge.training.instances import (
    ImageRecord,
    Instance,
    Mask,
    Matrix,
    PlacedMask,
    Polygon,
    place_instance,
    to_pixel_centres,
    transform_points,
)

Image = NDArray[np.uint8]
PAD_RGB = tuple(round(value) for value in IMAGE_MEAN_RGB)
HALVING_SCALE = 0.6  # below this a picture is halved by area first: bilinear sampling alone would alias
MOSAIC_CUT_RANGE = (0.3, 0.7)


class AugmentConfig(BaseModel):
    """What may be done to a training image.

    Scale 1 fits the image into a square of `fit_size`, the size of inference (None: the training size); `scale_range`
    is relative to that. Smaller training sizes are then crops that show objects as large as inference does.
    `mosaic`, `free_turn` and `copy_paste` are probabilities: several images tiled into one square, a turn by any angle
    rather than by quarter turns, instances of a second image pasted on. Photometric values are the largest relative
    change. Instances with less than `min_visible` of their area, or fewer than `min_pixels` pixels, are dropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit_size: int | None = Field(None, ge=1)
    scale_range: tuple[float, float] = (0.5, 1.6)
    mosaic: float = Field(0.5, ge=0.0, le=1.0)
    free_turn: float = Field(0.2, ge=0.0, le=1.0)
    copy_paste: float = Field(0.0, ge=0.0, le=1.0)
    turns: bool = True
    brightness: float = Field(0.2, ge=0.0, lt=1.0)
    contrast: float = Field(0.25, ge=0.0, lt=1.0)
    saturation: float = Field(0.4, ge=0.0, le=1.0)
    colour_cast: float = Field(0.06, ge=0.0, lt=1.0)
    min_visible: float = Field(0.25, ge=0.0, le=1.0)
    min_pixels: int = Field(12, ge=1)


PLAIN = AugmentConfig(
    scale_range=(1.0, 1.0), mosaic=0, free_turn=0, turns=False, brightness=0, contrast=0, saturation=0, colour_cast=0
)


class Sample(NamedTuple):
    """One training image.

    frame (S, S, 3) uint8 RGB, valid_hw (2,), boxes (n, 4) float32 xyxy in pixels of the frame, labels (n,) int64, masks
    (n, S, S) uint8 of 0 and 1.
    """

    frame: Image
    valid_hw: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: Mask


class Source(NamedTuple):
    """A decoded image (RGB) of a record; it may have been shrunk: `scale_xy` is its size over the record's."""

    record: ImageRecord
    image: Image
    scale_xy: tuple[float, float]


class _Piece(NamedTuple):
    """Part of a sample: pixels of one tile (h, w, 3), its bottom-right valid corner, and its instances."""

    pixels: Image
    valid_hw: tuple[int, int]
    instances: list[tuple[Instance, PlacedMask, Matrix]]


def augment(draw: Callable[[], Source], size: int, config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """One random sample of (size, size). `draw` gives the image of this sample first, then further random images.

    All randomness comes from `rng`, so that the same generator state gives the same sample.
    """
    fit_size = config.fit_size or size
    canvas = np.empty((size, size, 3), np.uint8)
    canvas[:] = PAD_RGB
    placed: list[tuple[Instance, PlacedMask, Matrix]] = []
    tiles = _mosaic_tiles(size, rng) if rng.random() < config.mosaic else [(0, 0, size, size)]
    valid_hw = (size, size)
    for left, top, right, bottom in tiles:
        piece = _render(draw(), fit_size, (bottom - top, right - left), config, rng)
        canvas[top:bottom, left:right] = piece.pixels
        shift = np.array([[0.0, 0.0, left], [0.0, 0.0, top]])
        for instance, mask, matrix in piece.instances:
            moved = PlacedMask(
                mask.crop, (mask.origin_xy[0] + left, mask.origin_xy[1] + top), mask.whole, mask.full_area
            )
            placed.append((instance, moved, matrix + shift))
        if len(tiles) == 1:
            valid_hw = piece.valid_hw
    if rng.random() < config.copy_paste:
        placed = _paste(canvas, placed, _render(draw(), fit_size, (size, size), config, rng), rng)
    return _assemble(canvas, valid_hw, placed, config)


def fit_sample(source: Source, size: int) -> Sample:
    """The sample without augmentation: fitted into the square, padded at the bottom and right."""
    rng = np.random.default_rng(0)
    height, width = source.record.size_hw
    scale = min(size / height, size / width)
    matrix = np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]])
    piece = _warp(source, matrix, (size, size), PLAIN, rng)
    return _assemble(piece.pixels, piece.valid_hw, piece.instances, PLAIN)


def _mosaic_tiles(size: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Tiles (left, top, right, bottom) that fill the square: two halves, or four quarters, cut at random."""
    x, y = (int(size * rng.uniform(*MOSAIC_CUT_RANGE)) for _ in range(2))
    kind = rng.integers(3)
    if kind == 0:
        return [(0, 0, size, y), (0, y, size, size)]
    if kind == 1:
        return [(0, 0, x, size), (x, 0, size, size)]
    return [(0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)]


def _render(
    source: Source, fit_size: int, tile_hw: tuple[int, int], config: AugmentConfig, rng: np.random.Generator
) -> _Piece:
    """A random view of one image in a tile, at a scale relative to its fit into a square of `fit_size`."""
    height, width = source.record.size_hw
    low, high = config.scale_range
    scale = min(fit_size / height, fit_size / width) * math.exp(rng.uniform(math.log(low), math.log(high)))
    turn = _turn(config, rng) * scale
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64) @ turn.T
    low_xy, extent = corners.min(axis=0), np.ptp(corners, axis=0)
    matrix = np.concatenate([turn, -low_xy[:, None]], axis=1)
    matrix[:, 2] += _offset(source.record, matrix, extent, tile_hw, rng)
    return _warp(source, matrix, tile_hw, config, rng)


def _turn(config: AugmentConfig, rng: np.random.Generator) -> Matrix:
    """A (2, 2) rotation with or without a reflection: one of the eight symmetries of the square, or any angle."""
    if not config.turns:
        return np.eye(2)
    angle = int(rng.integers(4)) * math.pi / 2
    if rng.random() < config.free_turn:
        angle += rng.uniform(-math.pi / 4, math.pi / 4)
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    if rng.random() < 0.5:
        turn[0] = -turn[0]
    if abs(cosine * sine) < 1e-9:
        turn = np.round(turn)
    return turn


def _offset(
    record: ImageRecord, matrix: Matrix, extent: Polygon, tile_hw: tuple[int, int], rng: np.random.Generator
) -> Polygon:
    """Where to put the moved image: anywhere that wastes no tile, such that one instance's centre is in the tile."""
    room = np.array([tile_hw[1], tile_hw[0]], np.float64) - extent
    low, high = np.minimum(room, 0.0), np.maximum(room, 0.0)
    if record.instances:
        chosen = record.instances[int(rng.integers(len(record.instances)))].box_xyxy
        centre = transform_points(np.array([[(chosen[0] + chosen[2]) / 2, (chosen[1] + chosen[3]) / 2]]), matrix)[0]
        low = np.clip(-centre, low, high)
        high = np.clip(np.array([tile_hw[1], tile_hw[0]]) - centre, low, high)
    offset: Polygon = rng.uniform(low, high + 1e-9)
    return offset


def _warp(
    source: Source, matrix: Matrix, tile_hw: tuple[int, int], config: AugmentConfig, rng: np.random.Generator
) -> _Piece:
    height, width = tile_hw
    pixels = _resample(source, matrix, tile_hw)
    pixels = photometric(pixels, config, rng)
    record_hw = source.record.size_hw
    corners = transform_points(
        np.array([[0.0, 0.0], [record_hw[1], 0.0], [record_hw[1], record_hw[0]], [0.0, record_hw[0]]]), matrix
    )
    right, bottom = (math.ceil(value - 0.5) for value in corners.max(axis=0))
    instances = []
    for instance in source.record.instances:
        mask = place_instance(instance, matrix, height, width)
        if mask is not None:
            instances.append((instance, mask, matrix))
    return _Piece(pixels, (min(max(bottom, 1), height), min(max(right, 1), width)), instances)


def _resample(source: Source, matrix: Matrix, tile_hw: tuple[int, int]) -> Image:
    image = source.image
    ratio_x, ratio_y = source.scale_xy
    scale = math.sqrt(abs(float(np.linalg.det(matrix[:, :2]))) / (ratio_x * ratio_y))
    if scale < HALVING_SCALE:
        new_width, new_height = max(image.shape[1] // 2, 1), max(image.shape[0] // 2, 1)
        ratio_x, ratio_y = ratio_x * new_width / image.shape[1], ratio_y * new_height / image.shape[0]
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    from_pixels = matrix.copy()
    from_pixels[:, 0] /= ratio_x
    from_pixels[:, 1] /= ratio_y
    warped = cv2.warpAffine(
        image, to_pixel_centres(from_pixels), (tile_hw[1], tile_hw[0]), flags=cv2.INTER_LINEAR, borderValue=PAD_RGB
    )
    return np.asarray(warped, np.uint8)


def photometric(image: Image, config: AugmentConfig, rng: np.random.Generator) -> Image:
    """Random brightness, contrast and colour cast (one look-up table per channel), and saturation. RGB uint8."""
    gain = 1 + rng.uniform(-config.contrast, config.contrast)
    shift = 255 * rng.uniform(-config.brightness, config.brightness) / 2
    cast = 1 + rng.uniform(-config.colour_cast, config.colour_cast, 3)
    colourful = 1 + rng.uniform(-config.saturation, config.saturation)
    if gain != 1 or shift != 0 or config.colour_cast > 0:
        ramp = np.arange(256, dtype=np.float64)[:, None]
        table = np.clip(((ramp - 128) * gain + 128 + shift) * cast, 0, 255).round().astype(np.uint8)
        image = np.asarray(cv2.LUT(image, table[None]), np.uint8)
    if colourful != 1:
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        image = np.asarray(cv2.addWeighted(image, colourful, grey, 1 - colourful, 0), np.uint8)
    return image


def _paste(
    canvas: Image,
    placed: list[tuple[Instance, PlacedMask, Matrix]],
    donor: _Piece,
    rng: np.random.Generator,
) -> list[tuple[Instance, PlacedMask, Matrix]]:
    """Copy-paste (Ghiasi et al., 2021): a random half of the donor's whole instances land on the canvas, in place."""
    for instance, mask, matrix in donor.instances:
        if not mask.whole or rng.random() < 0.5:
            continue
        (x, y), (height, width) = mask.origin_xy, mask.crop.shape
        where = mask.crop[..., None] != 0
        target = canvas[y : y + height, x : x + width]
        np.copyto(target, donor.pixels[y : y + height, x : x + width], where=where)
        placed = [(other, _cut(covered, mask), its) for other, covered, its in placed]
        placed.append((instance, mask, matrix))
    return placed


def _cut(covered: PlacedMask, above: PlacedMask) -> PlacedMask:
    """What is left of a mask under another one."""
    (ax, ay), (bx, by) = covered.origin_xy, above.origin_xy
    left, top = max(ax, bx), max(ay, by)
    right = min(ax + covered.crop.shape[1], bx + above.crop.shape[1])
    bottom = min(ay + covered.crop.shape[0], by + above.crop.shape[0])
    if right <= left or bottom <= top:
        return covered
    crop = covered.crop.copy()
    crop[top - ay : bottom - ay, left - ax : right - ax] &= (
        1 - above.crop[top - by : bottom - by, left - bx : right - bx]
    )
    return PlacedMask(crop, covered.origin_xy, False, covered.full_area)


def _assemble(
    canvas: Image,
    valid_hw: tuple[int, int],
    placed: list[tuple[Instance, PlacedMask, Matrix]],
    config: AugmentConfig,
) -> Sample:
    """Drops what is hardly visible and stacks the rest."""
    size_h, size_w = canvas.shape[:2]
    boxes, labels, masks = [], [], []
    for instance, placed_mask, matrix in placed:
        visible = int(placed_mask.crop.sum())
        if visible < config.min_pixels or visible < config.min_visible * placed_mask.full_area:
            continue
        box = _box(instance, placed_mask, matrix)
        if box is None:
            continue
        mask = np.zeros((size_h, size_w), np.uint8)
        (x, y), (height, width) = placed_mask.origin_xy, placed_mask.crop.shape
        mask[y : y + height, x : x + width] = placed_mask.crop
        boxes.append(box)
        labels.append(instance.label)
        masks.append(mask)
    box_rows = np.clip(np.asarray(boxes, np.float32).reshape(-1, 4), 0, np.array([size_w, size_h] * 2, np.float32))
    stacked = np.stack(masks) if masks else np.zeros((0, size_h, size_w), np.uint8)
    return Sample(canvas, np.asarray(valid_hw, np.int64), box_rows, np.asarray(labels, np.int64), stacked)


def _box(instance: Instance, mask: PlacedMask, matrix: Matrix) -> tuple[float, float, float, float] | None:
    """The annotated box where it stays an upright box and whole, else the tight box of the visible mask."""
    upright = abs(matrix[0, 0] * matrix[0, 1]) < 1e-12
    if not (mask.whole and upright):
        return mask.box_xyxy()
    x1, y1, x2, y2 = instance.box_xyxy
    corners = transform_points(np.array([[x1, y1], [x2, y2]]), matrix)
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return float(left), float(top), float(right), float(bottom)
