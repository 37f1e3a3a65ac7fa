"""What the runs of a measurement took: exact counts, and the times of each run, in memory that does not grow.

Memory is taken and touched at the start, because a log that grew would look like a leak of the engine in a soak.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt

from rs4d_edge.timing import StageTimings

STAGES = ("resize", "infer", "post", "mask", "total")
PERCENTILES = (50, 90, 95, 99)
MOST_KEPT = 10_000

Times = npt.NDArray[np.float64]


class Reservoir:
    """Rows of numbers: all of them up to `most`, then a uniform sample of `most` of them (seeded, so repeatable)."""

    def __init__(self, columns: int, most: int, seed: int = 0) -> None:
        self.count = 0
        self._rows = np.full((most, columns), np.nan)
        self._random = random.Random(seed)

    def add(self, *row: float) -> None:
        """One more row of `columns` numbers."""
        most = len(self._rows)
        place = self.count if self.count < most else self._random.randrange(self.count + 1)
        self.count += 1
        if place < most:
            self._rows[place] = row

    def clear(self) -> None:
        """Forget the rows, keep the memory."""
        self.count = 0

    @property
    def rows(self) -> Times:
        """(kept, columns), by the first column."""
        kept = self._rows[: min(self.count, len(self._rows))]
        return kept[np.argsort(kept[:, 0], kind="stable")]


class RunLog:
    """The runs of one bundle. Masks are rendered in each, so that `total` is from the frame to the last mask."""

    def __init__(self, deadline_ms: float | None = None, most_kept: int = MOST_KEPT) -> None:
        self.deadline_ms = deadline_ms
        self.count = 0
        self.misses = 0
        self._largest = dict.fromkeys(STAGES, 0.0)
        self._steps_ms = 0.0
        self._last_ms: float | None = None
        self._kept = Reservoir(1 + len(STAGES), most_kept)

    def add(self, at_s: float, timings: StageTimings) -> None:
        """One more run, that ended `at_s` seconds after the measurement's start."""
        times = [float(getattr(timings, f"{stage}_ms")) for stage in STAGES]
        total = times[-1]
        self.count += 1
        for stage, ms in zip(STAGES, times, strict=True):
            self._largest[stage] = max(self._largest[stage], ms)
        if self._last_ms is not None:
            self._steps_ms += abs(total - self._last_ms)
        self._last_ms = total
        self.misses += self.deadline_ms is not None and total > self.deadline_ms
        self._kept.add(at_s, *times)

    @property
    def jitter_ms(self) -> float | None:
        """Mean absolute difference between the totals of consecutive runs; None with fewer than two."""
        return self._steps_ms / (self.count - 1) if self.count > 1 else None

    def latency(self) -> dict[str, dict[str, float]]:
        """Percentiles and the maximum of each stage. Percentiles are those of the kept runs, maxima of all."""
        rows = self._kept.rows
        return {
            stage: {**percentiles(rows[:, 1 + place]), "max_ms": round(self._largest[stage], 3)}
            for place, stage in enumerate(STAGES)
        }

    def deadline(self) -> dict[str, float | int] | None:
        """How many runs took longer than the deadline; None without one."""
        if self.deadline_ms is None:
            return None
        share = round(self.misses / self.count, 6) if self.count else 0.0
        return {"deadline_ms": self.deadline_ms, "misses": self.misses, "share": share}

    def kept(self) -> dict[str, Any]:
        """The kept runs in their order: seconds since the start, and milliseconds by stage, to a microsecond."""
        rows = np.round(self._kept.rows, 3)
        stages = {stage: rows[:, 1 + place].tolist() for place, stage in enumerate(STAGES)}
        return {"of": self.count, "at_s": rows[:, 0].tolist(), "stages_ms": stages}


def percentiles(values: Times) -> dict[str, float]:
    """`PERCENTILES` of milliseconds by name, to a microsecond."""
    levels = np.percentile(values, PERCENTILES)
    return {f"p{rank}_ms": round(float(level), 3) for rank, level in zip(PERCENTILES, levels, strict=True)}
