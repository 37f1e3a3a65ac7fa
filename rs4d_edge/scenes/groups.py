"""Objects in the company that they keep: planes on an apron, tanks in a farm, courts side by side, cars in a lot."""

from __future__ import annotations

import math

import numpy as np

from rs4d_edge.scenes.canvas import Canvas, Place
from rs4d_edge.scenes.craft import airplane, ship, vehicle
from rs4d_edge.scenes.objects import Kind, draw_size
from rs4d_edge.scenes.pen import arc, shade
from rs4d_edge.scenes.sports import (
    COURT_COLOURS,
    SURROUND_COLOURS,
    baseball_diamond,
    basketball_court,
    ground_track_field,
    tennis_court,
)
from rs4d_edge.scenes.structures import hall, harbor, house, storage_tank, tree

Angles = tuple[float, ...]
_CONCRETE = (156, 152, 142)
_QUARTER = math.pi / 2


def apron(canvas: Canvas, rng: np.random.Generator, angles: Angles, scale: float) -> bool:
    """A concrete apron with a terminal along one edge and one or two rows of airplanes."""
    size = draw_size(rng, Kind.AIRPLANE, scale)
    rows = int(rng.integers(1, 3))
    gates = int(rng.integers(3, 8))
    gap = 1.25 * size
    length, width = gates * gap + 0.4 * size, rows * 1.5 * size + 1.2 * size
    place = canvas.find(rng, length, width, angles, overhang=0.1, tries=60)
    if place is None:
        return False
    canvas.slab(place, shade(_CONCRETE, rng.uniform(0.75, 1.2)), 0.92)
    _joints(canvas, place, 1.2 * size)
    canvas.occupy(place)
    edge = -width / 2
    depth = 0.5 * size
    canvas.lay(hall(rng, length * 0.9, depth, place.angle), *place.point(0, edge + depth / 2), height=0.2 * size)
    for row in range(rows):
        nose = place.angle - _QUARTER if row == 0 else place.angle + rng.choice((-_QUARTER, _QUARTER))
        for gate in range(gates):
            if rng.random() > 0.8:
                continue
            x, y = place.point((gate - (gates - 1) / 2) * gap, edge + depth + (0.65 + 1.45 * row) * size)
            own = size * rng.uniform(0.88, 1.1)
            turned = nose + rng.normal(0, 0.06)
            canvas.lay(airplane(rng, own, turned), x, y, height=0.1 * own, label=Kind.AIRPLANE)
    return True


def _joints(canvas: Canvas, place: Place, step: float) -> None:
    """Darker lines between the slabs of a pavement, a pixel wide."""
    for across in np.arange(-place.width / 2, place.width / 2, step):
        x, y = place.point(0, float(across))
        canvas.slab(Place(x, y, place.length, 1.0, place.angle), (118, 114, 106), 0.45)
    for along in np.arange(-place.length / 2, place.length / 2, step):
        x, y = place.point(float(along), 0)
        canvas.slab(Place(x, y, 1.0, place.width, place.angle), (118, 114, 106), 0.45)


def lone_airplane(canvas: Canvas, rng: np.random.Generator, scale: float) -> bool:
    """One airplane on a stand of its own."""
    size = draw_size(rng, Kind.AIRPLANE, scale)
    place = canvas.find(rng, 1.5 * size, 1.4 * size, (rng.uniform(0, math.pi),))
    if place is None:
        return False
    canvas.slab(place, shade(_CONCRETE, rng.uniform(0.6, 1.1)), 0.9)
    canvas.occupy(place)
    nose = place.angle + rng.choice((0.0, math.pi))
    return canvas.lay(airplane(rng, size, nose), place.x, place.y, height=0.1 * size, label=Kind.AIRPLANE)


def tank_farm(canvas: Canvas, rng: np.random.Generator, angles: Angles, scale: float) -> bool:
    """Rows of tanks, each on its own bunded square."""
    size = draw_size(rng, Kind.STORAGE_TANK, scale)
    pitch = rng.uniform(1.5, 1.9) * size
    columns, rows = int(rng.integers(2, 7)), int(rng.integers(2, 4))
    place = canvas.find(rng, columns * pitch, rows * pitch, angles, overhang=0.1, tries=60)
    if place is None:
        return False
    ground = ((108, 118, 84), (134, 124, 104), (146, 142, 132))[rng.integers(3)]
    canvas.slab(place, shade(ground, rng.uniform(0.8, 1.1)), 0.85)
    _joints(canvas, place, pitch)
    canvas.occupy(place)
    for row in range(rows):
        for column in range(columns):
            if rng.random() > 0.9:
                continue
            x, y = place.point((column - (columns - 1) / 2) * pitch, (row - (rows - 1) / 2) * pitch)
            tank = storage_tank(rng, size * rng.uniform(0.9, 1.05), canvas.sun)
            canvas.lay(tank, x, y, height=0.45 * size, label=Kind.STORAGE_TANK)
    return True


def courts(canvas: Canvas, rng: np.random.Generator, angles: Angles, scale: float, kind: Kind) -> bool:
    """One to four tennis or basketball courts side by side on one surround."""
    draw = tennis_court if kind is Kind.TENNIS_COURT else basketball_court
    size = draw_size(rng, kind, scale)
    count = int(rng.integers(1, 5)) if kind is Kind.TENNIS_COURT else int(rng.integers(1, 3))
    pitch = size * (0.68 if kind is Kind.TENNIS_COURT else 0.6)
    place = canvas.find(rng, size * 1.25, count * pitch + 0.1 * size, angles, tries=60)
    if place is None:
        return False
    surround = shade(SURROUND_COLOURS[rng.integers(len(SURROUND_COLOURS))], rng.uniform(0.8, 1.15))
    canvas.slab(place, surround, 0.95)
    canvas.occupy(place)
    colour = shade(COURT_COLOURS[rng.integers(len(COURT_COLOURS))], rng.uniform(0.85, 1.15))
    for index in range(count):
        x, y = place.point(0, (index - (count - 1) / 2) * pitch)
        canvas.lay(draw(rng, size, place.angle, colour), x, y, label=kind)
    return True


def track(canvas: Canvas, rng: np.random.Generator, angles: Angles, scale: float) -> bool:
    """A running track, with a stand beside some."""
    size = draw_size(rng, Kind.GROUND_TRACK_FIELD, scale)
    place = canvas.find(rng, size, 0.6 * size, angles, overhang=0.08, tries=80)
    if place is None:
        return False
    canvas.occupy(place)
    if rng.random() < 0.6:
        x, y = place.point(0, 0.32 * size)
        canvas.lay(hall(rng, 0.35 * size, 0.06 * size, place.angle), x, y, height=4)
    return canvas.lay(ground_track_field(rng, size, place.angle), place.x, place.y, label=Kind.GROUND_TRACK_FIELD)


def diamond(canvas: Canvas, rng: np.random.Generator, scale: float) -> bool:
    """A baseball diamond, often with its outfield mown."""
    size = draw_size(rng, Kind.BASEBALL_DIAMOND, scale)
    angle = rng.uniform(0, 2 * math.pi)
    place = canvas.find(rng, 1.3 * size, 1.3 * size, (angle,), tries=60)
    if place is None:
        return False
    if rng.random() < 0.7:
        home = place.point(-0.47 * size, 0)
        reach = rng.uniform(1.5, 2.1) * size
        fan = np.array([home, *arc(*home, reach, reach, angle - math.pi / 4, angle + math.pi / 4)])
        canvas.pave(fan, shade((66, 88, 54), rng.uniform(0.8, 1.2)), 0.7)
    canvas.occupy(place)
    return canvas.lay(baseball_diamond(rng, size, angle), place.x, place.y, label=Kind.BASEBALL_DIAMOND)


def marina(canvas: Canvas, rng: np.random.Generator, angles: Angles, scale: float) -> bool:
    """Parallel piers full of boats, joined by a walkway."""
    size = draw_size(rng, Kind.HARBOR, scale)
    piers = int(rng.integers(2, 5))
    pitch = 0.52 * size
    place = canvas.find(rng, piers * pitch, size * 1.1, angles, afloat=True, margin=0, tries=80)
    if place is None:
        return False
    canvas.occupy(place)
    x, y = place.point(0, 0.53 * size)
    canvas.slab(Place(x, y, piers * pitch, 3.0, place.angle), (168, 164, 152))
    for index in range(piers):
        x, y = place.point((index - (piers - 1) / 2) * pitch, 0)
        canvas.lay(harbor(rng, size, place.angle + _QUARTER), x, y, height=2, label=Kind.HARBOR)
    return True


def ships(canvas: Canvas, rng: np.random.Generator, scale: float, count: int) -> int:
    """Ships at anchor or under way; gives how many found room."""
    heading = rng.uniform(0, 2 * math.pi)
    laid = 0
    for _ in range(count):
        size = draw_size(rng, Kind.SHIP, scale)
        angle = heading + rng.normal(0, 0.4) if rng.random() < 0.6 else rng.uniform(0, 2 * math.pi)
        place = canvas.find(rng, size * 1.15, size * 0.4, (angle,), afloat=True, overhang=0.15)
        if place is None:
            continue
        canvas.occupy(place)
        if rng.random() < 0.3:
            trail = ((-0.4, 0.0), (-1.7, 0.16), (-1.1, 0.0), (-1.7, -0.16))
            wake = np.array([place.point(along * size, across * size) for along, across in trail])
            canvas.pave(wake, (150, 160, 164), 0.3)
        laid += canvas.lay(ship(rng, size, angle), place.x, place.y, height=0.06 * size, label=Kind.SHIP)
    return laid


def car_park(canvas: Canvas, rng: np.random.Generator, angles: Angles, scale: float) -> bool:
    """A paved lot with cars in marked stalls."""
    size = min(draw_size(rng, Kind.VEHICLE, scale), 32 * scale)
    stalls, rows = int(rng.integers(4, 10)), int(rng.integers(1, 3))
    pitch, depth = 0.68 * size, 1.9 * size
    place = canvas.find(rng, stalls * pitch + 0.4 * size, rows * depth, angles, overhang=0.1, tries=60)
    if place is None:
        return False
    canvas.slab(place, shade((110, 110, 110), rng.uniform(0.75, 1.25)), 0.92)
    canvas.occupy(place)
    for row in range(rows):
        middle = (row - (rows - 1) / 2) * depth
        for stall in range(stalls + 1):
            along = (stall - stalls / 2) * pitch
            x, y = place.point(along, middle)
            canvas.slab(Place(x, y, 1.0, 1.15 * size, place.angle), (206, 206, 200), 0.55)
            if stall < stalls and rng.random() < 0.65:
                angle = place.angle + rng.choice((-_QUARTER, _QUARTER)) + rng.normal(0, 0.03)
                x, y = place.point(along + pitch / 2, middle + rng.normal(0, 0.04) * size)
                car = vehicle(rng, size * rng.uniform(0.92, 1.06), angle)
                canvas.lay(car, x, y, height=0.25 * size, label=Kind.VEHICLE)
    return True


def buildings(canvas: Canvas, rng: np.random.Generator, angles: Angles, scale: float, count: int) -> None:
    """Unlabelled houses, and a few large roofs among them."""
    for _ in range(count):
        if rng.random() < 0.12:
            length, width = rng.uniform(50, 110) * scale, rng.uniform(25, 60) * scale
        else:
            length, width = rng.uniform(18, 34) * scale, 24 * scale
        place = canvas.find(rng, length, width, angles, overhang=0.3, tries=8)
        if place is None:
            continue
        canvas.occupy(place)
        large = length > 40 * scale
        roof = hall(rng, length, width, place.angle) if large else house(rng, length, place.angle)
        canvas.lay(roof, place.x, place.y, height=rng.uniform(5, 12) * scale)


def trees(canvas: Canvas, rng: np.random.Generator, scale: float, count: int) -> None:
    """Unlabelled trees, drawn from a few crowns."""
    crowns = [tree(rng, rng.uniform(8, 22) * scale, canvas.sun) for _ in range(6)]
    for _ in range(count):
        place = canvas.find(rng, 8 * scale, 8 * scale, (0.0,), overhang=0.5, tries=3, margin=2)
        if place is not None:
            canvas.lay(crowns[rng.integers(len(crowns))], place.x, place.y, height=7 * scale)
