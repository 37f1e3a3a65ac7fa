"""A whole overhead picture with known objects, drawn from a seed: airports, ports, towns and river valleys."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rs4d_edge.errors import RS4DError
from rs4d_edge.scenes import ground, groups
from rs4d_edge.scenes.canvas import Canvas, Instance
from rs4d_edge.scenes.ground import Floats, Palette
from rs4d_edge.scenes.objects import Kind
from rs4d_edge.scenes.routes import cross_river, roads, traffic

_DESIGN_SIDE = 640  # the side in pixels that object sizes are given for
_LEAST_SIDE = 64
_LEAST_PIXELS = 12
_THEMES = ("airport", "port", "town", "river")


class Scene(NamedTuple):
    """A picture and the truth about it.

    `image` (h, w, 3) uint8 RGB; `boxes` (n, 4) float32 xyxy in pixels, tight around the visible part, the far edge
    exclusive; `labels` (n,) int64, the order of NWPU VHR-10's categories; `masks` (n, h, w) bool, visible pixels only.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]


def generate_scene(seed: int, size_hw: tuple[int, int] = (_DESIGN_SIDE, _DESIGN_SIDE)) -> Scene:
    """Draw a scene. The same seed and size give the same scene; objects grow with the frame's shorter side.

    Raises `RS4DError` for a frame smaller than 64 pixels on a side.
    """
    if min(size_hw) < _LEAST_SIDE:
        raise RS4DError(
            f"a scene of {size_hw[0]}x{size_hw[1]} pixels holds nothing: give at least {_LEAST_SIDE} a side"
        )
    rng = np.random.default_rng(seed)
    scale = min(size_hw) / _DESIGN_SIDE
    theme = _THEMES[rng.integers(len(_THEMES))]
    palette = ground.PALETTES[rng.integers(len(ground.PALETTES))]
    street = rng.uniform(0, math.pi)
    angles = (street, street + math.pi / 2)
    canvas = _PAINTERS[theme](rng, size_hw, palette, angles, scale)
    groups.buildings(canvas, rng, angles, scale, int(rng.integers(6, 30)))
    groups.trees(canvas, rng, scale, int(rng.integers(10, 70)))
    return _annotate(_photograph(rng, canvas.image), canvas.instances)


def _airport(
    rng: np.random.Generator, size_hw: tuple[int, int], palette: Palette, angles: groups.Angles, scale: float
) -> Canvas:
    image = ground.paint_land(rng, size_hw, palette, rng.choice((0.0, 0.1)))
    routes = roads(rng, image, palette, angles, scale * rng.uniform(18, 40), 1)
    canvas = Canvas(image, np.zeros(size_hw, np.bool_), rng)
    for route in routes:
        canvas.occupy_pixels(route.cover)
    for _ in range(int(rng.integers(1, 3))):
        groups.apron(canvas, rng, angles, scale)
    for _ in range(int(rng.integers(1, 4))):
        groups.lone_airplane(canvas, rng, scale)
    if rng.random() < 0.5:
        groups.tank_farm(canvas, rng, angles, scale)
    if rng.random() < 0.6:
        groups.car_park(canvas, rng, angles, scale)
    return canvas


def _port(
    rng: np.random.Generator, size_hw: tuple[int, int], palette: Palette, angles: groups.Angles, scale: float
) -> Canvas:
    image = ground.paint_land(rng, size_hw, palette, rng.choice((0.0, 0.2)))
    routes = roads(rng, image, palette, angles, scale * rng.uniform(8, 16), int(rng.integers(1, 3)))
    water = ground.flood(rng, image, ground.coast(rng, size_hw, rng.uniform(0.35, 0.7)), palette)
    canvas = Canvas(image, water, rng)
    for route in routes:
        canvas.occupy_pixels(route.cover & ~water)
    for _ in range(int(rng.integers(1, 3))):
        groups.marina(canvas, rng, angles, scale)
    groups.ships(canvas, rng, scale, int(rng.integers(3, 10)))
    for _ in range(int(rng.integers(1, 4))):
        groups.tank_farm(canvas, rng, angles, scale)
    if rng.random() < 0.5:
        groups.car_park(canvas, rng, angles, scale)
    return canvas


def _town(
    rng: np.random.Generator, size_hw: tuple[int, int], palette: Palette, angles: groups.Angles, scale: float
) -> Canvas:
    image = ground.paint_land(rng, size_hw, palette, rng.choice((0.1, 0.25, 0.4)))
    routes = roads(rng, image, palette, angles, scale * rng.uniform(22, 36), int(rng.integers(1, 3)))
    canvas = Canvas(image, np.zeros(size_hw, np.bool_), rng)
    for route in routes:
        canvas.occupy_pixels(route.cover)
    _sports(canvas, rng, angles, scale, 1.0)
    groups.car_park(canvas, rng, angles, scale)
    for route in routes:
        traffic(canvas, rng, route, scale)
    return canvas


def _river(
    rng: np.random.Generator, size_hw: tuple[int, int], palette: Palette, angles: groups.Angles, scale: float
) -> Canvas:
    image = ground.paint_land(rng, size_hw, palette, rng.choice((0.1, 0.3)))
    field, line = ground.river(rng, size_hw, rng.uniform(55, 130) * scale)
    crossings = cross_river(rng, image, field, line, palette, scale)
    water = ground.flood(rng, image, field, palette)
    canvas = Canvas(image, water, rng)
    for route in crossings:
        canvas.occupy_pixels(route.cover)
    for route in crossings:
        route.span(canvas, rng)
        traffic(canvas, rng, route, scale)
    groups.ships(canvas, rng, scale * 0.7, int(rng.integers(0, 3)))
    _sports(canvas, rng, angles, scale, 0.4)
    if rng.random() < 0.5:
        groups.car_park(canvas, rng, angles, scale)
    return canvas


def _sports(canvas: Canvas, rng: np.random.Generator, angles: groups.Angles, scale: float, share: float) -> None:
    """Grounds for sport, the largest first so that they find room."""
    if rng.random() < 0.75 * share:
        groups.track(canvas, rng, angles, scale)
    for _ in range(int(rng.integers(0, 4))):
        if rng.random() < share:
            groups.diamond(canvas, rng, scale)
    for kind in (Kind.BASKETBALL_COURT, Kind.TENNIS_COURT, Kind.BASKETBALL_COURT, Kind.TENNIS_COURT):
        if rng.random() < 0.7 * share:
            groups.courts(canvas, rng, angles, scale, kind)


_PAINTERS = {"airport": _airport, "port": _port, "town": _town, "river": _river}


def _photograph(rng: np.random.Generator, image: Floats) -> NDArray[np.uint8]:
    """What a camera and a map server make of it: exposure, haze, a colour cast, blur, grain, JPEG."""
    size_hw = (image.shape[0], image.shape[1])
    middle = image.mean((0, 1))
    contrast, exposure, haze = rng.uniform(1.0, 1.5), rng.uniform(0.75, 1.3), rng.uniform(0, 0.08)
    gain = contrast * exposure * (1 - haze) * (1 + rng.normal(0, 0.02, 3))
    offset = haze * 150 + exposure * (1 - haze) * (1 - contrast) * middle
    image = image * gain.astype(np.float32) + offset.astype(np.float32)
    image *= (1 + 0.03 * ground.noise(rng, size_hw, 300, 2))[..., None]
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 0.85)).astype(np.float32)
    image += (rng.standard_normal(size_hw, np.float32) * np.float32(rng.uniform(1.5, 4.0)))[..., None]
    exposed = np.clip(image, 0, 255).astype(np.uint8)
    _, packed = cv2.imencode(".jpg", exposed, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(80, 96))])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)


def _annotate(image: NDArray[np.uint8], instances: list[Instance]) -> Scene:
    seen = [instance for instance in instances if np.count_nonzero(instance.mask) >= _LEAST_PIXELS]
    boxes = np.zeros((len(seen), 4), np.float32)
    for row, instance in enumerate(seen):
        ys, xs = np.flatnonzero(instance.mask.any(1)), np.flatnonzero(instance.mask.any(0))
        boxes[row] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    labels = np.array([instance.label for instance in seen], np.int64)
    masks = np.stack([instance.mask for instance in seen]) if seen else np.zeros((0, *image.shape[:2]), np.bool_)
    return Scene(image, boxes, labels, masks)
