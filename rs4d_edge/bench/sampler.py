"""Reads the sources at a low rate in a thread of its own, beside the frames and never between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from rs4d_edge.bench.sources import COUNTERS, Source, missing_kinds

INTERVAL_S = 1.0
MOST_ROWS = 600


class Sampler:
    """Samples while it is entered, the first at once and the last when it is left.

    Memory is bounded: at `most_rows` every second row is dropped and the interval doubled. Extremes are kept of all.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        interval_s: float = INTERVAL_S,
        most_rows: int = MOST_ROWS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._sources = sources
        self._interval_s = interval_s
        self._most_rows = most_rows
        self._clock = clock
        self._rows: list[tuple[float, dict[str, float]]] = []
        self._extremes: dict[str, tuple[float, float]] = {}
        self._begin = 0.0
        self._busy_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="rs4d-bench sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._begin = self._clock()
        self.take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.take()

    def _loop(self) -> None:
        while not self._stop.wait(self._interval_s):
            self.take()

    def take(self) -> None:
        """One sample of everything that is available."""
        before = self._clock()
        row: dict[str, float] = {}
        for source in self._sources:
            if source.available:
                row.update(source.read())
        for series, value in row.items():
            least, most = self._extremes.get(series, (value, value))
            self._extremes[series] = (min(least, value), max(most, value))
        if len(self._rows) >= self._most_rows:
            del self._rows[1::2]
            self._interval_s *= 2
        self._rows.append((before - self._begin, row))
        self._busy_s += self._clock() - before

    def values(self, series: str) -> list[tuple[float, float]]:
        """Seconds since the start, and the value, where there is one."""
        return [(at_s, row[series]) for at_s, row in self._rows if series in row]

    def record(self) -> dict[str, Any]:
        """For a JSON file: the series over time, a summary of each, and why kinds are absent.

        `sampling_s` is the time that reading took, in all.
        """
        names = sorted(self._extremes)
        return {
            "at_s": [round(at_s, 3) for at_s, _ in self._rows],
            "series": {name: [_rounded(row.get(name)) for _, row in self._rows] for name in names},
            "summary": {name: self._summary(name) for name in names},
            "absent": missing_kinds(self._sources, names),
            "sampling_s": round(self._busy_s, 3),
        }

    def _summary(self, series: str) -> dict[str, float | None]:
        values = [value for _, value in self.values(series)]
        growth = _rounded(values[-1] - values[0])
        if series.split(":", 1)[0] in COUNTERS:
            return {"growth": growth}
        least, most = self._extremes[series]
        mean = float(np.mean(values))
        return {"mean": _rounded(mean), "least": _rounded(least), "most": _rounded(most), "growth": growth}


def joules(sampler: Sampler, series: Sequence[str]) -> dict[str, float]:
    """Energy while sampling, by label: of counters, and of power over time where the same label has no counter."""
    found: dict[str, float] = {}
    for name in sorted(series):  # energy comes before power
        kind, label = name.split(":", 1)
        points = sampler.values(name)
        if kind == "energy":
            found[label] = points[-1][1] - points[0][1]
        elif kind == "power" and label not in found and len(points) > 1:
            at_s, watts = np.array(points).T
            found[label] = float(np.sum((watts[1:] + watts[:-1]) / 2 * np.diff(at_s)))
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
