"""The ten labelled classes: which function draws each, and how large it is seen."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Kind(IntEnum):
    """Label of each class, in the order of the NWPU VHR-10 categories."""

    AIRPLANE = 0
    SHIP = 1
    STORAGE_TANK = 2
    BASEBALL_DIAMOND = 3
    TENNIS_COURT = 4
    BASKETBALL_COURT = 5
    GROUND_TRACK_FIELD = 6
    HARBOR = 7
    BRIDGE = 8
    VEHICLE = 9


# Longest side in pixels of a 640x640 frame: the 2nd, 50th and 98th percentile of NWPU VHR-10's training boxes, rounded,
# with a margin for objects that lie askew in theirs.
SIZES: dict[Kind, tuple[float, float, float]] = {
    Kind.AIRPLANE: (26, 46, 86),
    Kind.SHIP: (18, 40, 73),
    Kind.STORAGE_TANK: (12, 21, 32),
    Kind.BASEBALL_DIAMOND: (30, 54, 98),
    Kind.TENNIS_COURT: (28, 46, 70),
    Kind.BASKETBALL_COURT: (36, 66, 124),
    Kind.GROUND_TRACK_FIELD: (130, 190, 270),
    Kind.HARBOR: (44, 76, 130),
    Kind.BRIDGE: (40, 100, 185),
    Kind.VEHICLE: (18, 30, 50),
}


def draw_size(rng: np.random.Generator, kind: Kind, scale: float = 1.0) -> float:
    """A size in pixels; half of the draws lie on either side of the class's median."""
    low, median, high = SIZES[kind]
    size = rng.triangular(low, median, median + 1) if rng.random() < 0.5 else rng.triangular(median - 1, median, high)
    return float(size * scale)
