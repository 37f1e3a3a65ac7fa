"""Roads that cross the frame, the bridges that carry them over rivers, and the traffic on them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from rs4d_edge.scenes.canvas import Canvas
from rs4d_edge.scenes.craft import vehicle
from rs4d_edge.scenes.ground import Bools, Floats, Palette, River, draw_road
from rs4d_edge.scenes.objects import Kind, draw_size
from rs4d_edge.scenes.structures import bridge


class Route(NamedTuple):
    """A straight road through (x, y) at `angle`; `over` is how far it runs over water, from and to, along it."""

    x: float
    y: float
    angle: float
    width: float
    cover: Bools
    over: tuple[float, float] | None = None

    def point(self, along: float, across: float = 0.0) -> tuple[float, float]:
        """Frame coordinates of a point on the road."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return self.x + along * cos - across * sin, self.y + along * sin + across * cos

    def span(self, canvas: Canvas, rng: np.random.Generator) -> None:
        """Lay the bridge's deck over the water, when the road crosses any."""
        if self.over is None:
            return
        start, stop = self.over
        reach = rng.uniform(4, 10)
        length = stop - start + 2 * reach
        x, y = self.point((start + stop) / 2)
        canvas.lay(bridge(rng, length, self.angle, self.width), x, y, height=0.3 * self.width, label=Kind.BRIDGE)


def roads(
    rng: np.random.Generator, image: Floats, palette: Palette, angles: tuple[float, ...], width: float, count: int
) -> list[Route]:
    """Draw roads along the street grid's angles, each from edge to edge."""
    height, across = image.shape[:2]
    routes = []
    for index in range(count):
        x, y = rng.uniform(0.1, 0.9) * across, rng.uniform(0.1, 0.9) * height
        routes.append(_draw(image, palette, x, y, angles[index % len(angles)], width))
    return routes


def _draw(image: Floats, palette: Palette, x: float, y: float, angle: float, width: float) -> Route:
    reach = math.hypot(*image.shape[:2])
    away = (reach * math.cos(angle), reach * math.sin(angle))
    cover = draw_road(image, (x - away[0], y - away[1]), (x + away[0], y + away[1]), width, palette)
    return Route(x, y, angle, width, cover)


def cross_river(
    rng: np.random.Generator, image: Floats, field: Floats, line: River, palette: Palette, scale: float
) -> list[Route]:
    """Draw one or two roads across a river, before it is flooded; each knows where its bridge must stand."""
    routes = []
    size_hw = (image.shape[0], image.shape[1])
    count = int(rng.integers(1, 3))
    for index in range(count):
        middle = (index - (count - 1) / 2) * 0.45 * min(size_hw)
        x, y, flow = line.at(middle + rng.uniform(-0.1, 0.1) * min(size_hw), size_hw)
        angle = flow + math.pi / 2 + rng.normal(0, 0.2)
        route = _draw(image, palette, x, y, angle, rng.uniform(14, 34) * scale)
        routes.append(route._replace(over=_wet_stretch(route, field)))
    return routes


def _wet_stretch(route: Route, field: Floats) -> tuple[float, float] | None:
    """From where to where, seen from its middle, a road runs over water without a break."""
    height, width = field.shape
    longest = int(max(height, width))

    def run(direction: int) -> int:
        for step in range(longest):
            x, y = route.point(direction * step)
            if not (0 <= x < width and 0 <= y < height) or field[int(y), int(x)] <= 0:
                return step
        return longest

    back, forth = run(-1), run(1)
    return (-float(back), float(forth)) if back + forth > 0 else None


def traffic(canvas: Canvas, rng: np.random.Generator, route: Route, scale: float) -> None:
    """A few vehicles in the two lanes of a road that is wide enough, heading their lanes' way."""
    size = min(draw_size(rng, Kind.VEHICLE, scale), 0.95 * route.width)
    if size < 14 * scale:
        return
    reach = int(math.hypot(*canvas.size_hw) / 2)
    for lane in (-1, 1):
        along = -reach + rng.uniform(0, 8) * size
        while along < reach:
            heading = route.angle + (0.0 if lane < 0 else math.pi)
            x, y = route.point(along, lane * route.width / 4)
            inside = 0 <= x < canvas.size_hw[1] and 0 <= y < canvas.size_hw[0]
            if inside and not canvas.shows(Kind.VEHICLE, x, y, 0.6 * size):
                own = size * rng.uniform(0.9, 1.1)
                canvas.lay(vehicle(rng, own, heading), x, y, height=0.25 * own, label=Kind.VEHICLE)
            along += size * rng.uniform(2.0, 9.0)
