"""The shape of a training data set in memory: images, their instances, and how instance shapes become masks.

Coordinates are continuous: pixel i of a row covers [i, i + 1), x runs right, y runs down.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Polygon = NDArray[np.float64]
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Instance:
    """One object: its 0-based label, its box (xyxy, image pixels) and its shape.

    The shape is the union of `polygons`, each (k, 2) in xy order, or, where it has holes or came as a bitmap, `bitmap`
    (h, w) of 0 and 1, whose top-left pixel lies at `bitmap_origin_xy`.
    """

    label: int
    box_xyxy: tuple[float, float, float, float]
    polygons: tuple[Polygon, ...] = ()
    bitmap: Mask | None = None
    bitmap_origin_xy: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class ImageRecord:
    """One image file with its instances. `size_hw` is the size that the annotations refer to."""

    path: Path
    image_id: int
    size_hw: tuple[int, int]
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class InstanceDataset:
    """Images with instance masks; `classes` are in label order. `skipped` counts images that were left out."""

    name: str
    classes: tuple[str, ...]
    records: tuple[ImageRecord, ...]
    skipped: int = 0

    @property
    def instance_count(self) -> int:
        """How many objects there are in all images."""
        return sum(len(record.instances) for record in self.records)


def instance_from_bitmap(label: int, bitmap: Mask, origin_xy: tuple[int, int] = (0, 0)) -> Instance | None:
    """An instance from a (h, w) mask, kept as the tight crop of it; None where the mask is empty."""
    rows = np.flatnonzero(bitmap.any(axis=1))
    columns = np.flatnonzero(bitmap.any(axis=0))
    if rows.size == 0:
        return None
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    crop = np.ascontiguousarray(bitmap[top:bottom, left:right] != 0).astype(np.uint8)
    x, y = origin_xy[0] + left, origin_xy[1] + top
    box = (float(x), float(y), float(x + right - left), float(y + bottom - top))
    return Instance(label, box, (), crop, (x, y))


def rasterise(polygons: list[Polygon], height: int, width: int) -> Mask:
    """The union of polygons as a (height, width) mask, by COCO's own rule, so that targets equal the truth."""
    flat = [polygon.reshape(-1).tolist() for polygon in polygons if len(polygon) >= 3]
    if not flat:
        return np.zeros((height, width), np.uint8)
    rle: Any = coco_mask.merge(coco_mask.frPyObjects(flat, height, width))
    return np.asarray(coco_mask.decode(rle), dtype=np.uint8)


def transform_points(points: Polygon, matrix: Matrix) -> Polygon:
    """(k, 2) xy points through a (2, 3) affine matrix."""
    moved: Polygon = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


def to_pixel_centres(matrix: Matrix) -> Matrix:
    """The same affine map for OpenCV, which counts from pixel centres where we count from pixel edges."""
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([0.5, 0.5]) - 0.5
    return shifted


@dataclass(frozen=True)
class PlacedMask:
    """A mask crop (h, w) of 0 and 1 at `origin_xy` of an output image, `whole` where nothing of it was cut off.

    `full_area` is the area in pixels that it would have without the cut.
    """

    crop: Mask
    origin_xy: tuple[int, int]
    whole: bool
    full_area: float

    def box_xyxy(self) -> tuple[float, float, float, float] | None:
        """The tight box of the visible pixels, None where nothing is visible."""
        tight = instance_from_bitmap(0, self.crop, self.origin_xy)
        return None if tight is None else tight.box_xyxy


def place_instance(instance: Instance, matrix: Matrix, height: int, width: int) -> PlacedMask | None:
    """Moves an instance by a (2, 3) affine matrix into an output of (height, width); None where it falls outside."""
    corners = _outline(instance)
    moved = transform_points(corners, matrix)
    low, high = np.floor(moved.min(axis=0)).astype(int), np.ceil(moved.max(axis=0)).astype(int)
    left, top = max(int(low[0]), 0), max(int(low[1]), 0)
    right, bottom = min(int(high[0]), width), min(int(high[1]), height)
    if right <= left or bottom <= top:
        return None
    whole = (left, top) == (int(low[0]), int(low[1])) and (right, bottom) == (int(high[0]), int(high[1]))
    local = matrix.copy()
    local[:, 2] -= (left, top)
    growth = abs(float(np.linalg.det(matrix[:, :2])))
    if instance.bitmap is not None:
        local[:, 2] += matrix[:, :2] @ np.asarray(instance.bitmap_origin_xy, np.float64)
        smooth = cv2.warpAffine(instance.bitmap * 255, to_pixel_centres(local), (right - left, bottom - top))
        crop = (smooth >= 128).astype(np.uint8)
        return PlacedMask(crop, (left, top), whole, float(instance.bitmap.sum()) * growth)
    crop = rasterise([transform_points(p, local) for p in instance.polygons], bottom - top, right - left)
    area = sum(abs(float(_signed_area(p))) for p in instance.polygons) * growth
    return PlacedMask(crop, (left, top), whole, area)


def _outline(instance: Instance) -> Polygon:
    if instance.bitmap is None:
        return np.concatenate(instance.polygons)
    x1, y1, x2, y2 = instance.box_xyxy
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _signed_area(polygon: Polygon) -> float:
    x, y = polygon[:, 0], polygon[:, 1]
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
