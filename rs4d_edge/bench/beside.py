"""How many times as long a peer takes as a bundle, from frames in turns, so that what disturbs one disturbs both.

Of figures that were measured one after the other, a ratio would also tell what else the machine did meanwhile.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from rs4d_edge.bench.streams import Clock, FramePath, Opener, run_frame
from rs4d_edge.frames import Frame

WARM_UP_ROUNDS = 1  # both have been warmed up before
FEWEST_ROUNDS, MOST_ROUNDS = 5, 200


def over_bundle(
    bundle: Opener, peer: Opener, frame: Frame, seconds: float, *, clock: Clock = time.perf_counter
) -> dict[str, Any]:
    """Rounds of a frame through the bundle, the peer and the bundle again, for `seconds` but at least `FEWEST_ROUNDS`.

    A round's ratio is the peer's time over the mean of the bundle's two, masks included; told are its median, least and
    most over the rounds.
    """
    with bundle() as ours, peer() as theirs:
        for _ in range(WARM_UP_ROUNDS):
            _round(ours, theirs, frame)
        begin = clock()
        ratios: list[float] = []
        while len(ratios) < FEWEST_ROUNDS or (len(ratios) < MOST_ROUNDS and clock() - begin < seconds):
            ratios.append(_round(ours, theirs, frame))
    least, median, most = np.percentile(ratios, (0, 50, 100))
    return {"ratio": float(median), "least": float(least), "most": float(most), "rounds": len(ratios)}


def _round(ours: FramePath, theirs: FramePath, frame: Frame) -> float:
    before, peer, after = (run_frame(each, frame).timings.total_ms for each in (ours, theirs, ours))
    return peer / max((before + after) / 2, 1e-6)


def over_text(found: dict[str, Any]) -> str:
    """A ratio with its spread and what it is over, as in `12.3 (11.9 to 14.0) of bundle`."""
    ratio, least, most = (f"{found[name]:.3g}" for name in ("ratio", "least", "most"))
    return f"{ratio} ({least} to {most}) of {found['label']}"
