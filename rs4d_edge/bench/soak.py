"""A soak: the same frame for minutes or hours, minute 1 against minute N, and whether anything drifts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rs4d_edge.bench.run_log import Reservoir, percentiles

MINUTE_S = 60.0
MOST_OF_A_MINUTE = 5000  # runs; of more, a uniform sample
WHOLE_FROM_S = 54.0  # a last minute that was cut shorter is left out
LATENCY_LIMIT = 0.05  # of minute 1
MEMORY_LIMIT = 0.02  # of what minute 1 ended with,
MEMORY_LIMIT_BYTES = 8 << 20  # and at least this: an allocator's own coming and going

Digest = dict[str, Any]


class MinuteLog:
    """A digest of each minute, made when it is over; `memory_bytes` is asked then."""

    def __init__(self, memory_bytes: Callable[[], float | None], deadline_ms: float | None = None) -> None:
        self.digests: list[Digest] = []
        self._memory_bytes = memory_bytes
        self._deadline_ms = deadline_ms
        self._times = Reservoir(1, MOST_OF_A_MINUTE)
        self._minute = 0
        self._largest, self._misses, self._last_s = 0.0, 0, 0.0

    def add(self, at_s: float, total_ms: float) -> None:
        """A run that ended `at_s` seconds after the start of the soak; a minute without runs has no digest."""
        minute = int(at_s // MINUTE_S)
        if minute != self._minute:
            self._close()
            self._minute = minute
        self._times.add(total_ms)
        self._last_s = at_s
        self._largest = max(self._largest, total_ms)
        self._misses += self._deadline_ms is not None and total_ms > self._deadline_ms

    def finish(self) -> list[Digest]:
        """The digests of all minutes; the last one's only if it was nearly whole."""
        if self._last_s - self._minute * MINUTE_S >= WHOLE_FROM_S:
            self._close()
        return self.digests

    def _close(self) -> None:
        if self._times.count:
            memory = self._memory_bytes()
            self.digests.append(
                {
                    "minute": self._minute + 1,
                    "runs": self._times.count,
                    **percentiles(self._times.rows[:, 0]),
                    "max_ms": round(self._largest, 3),
                    "misses": None if self._deadline_ms is None else self._misses,
                    "memory_bytes": None if memory is None else int(memory),
                }
            )
        self._start_again()

    def _start_again(self) -> None:
        self._times.clear()
        self._largest, self._misses, self._last_s = 0.0, 0, 0.0


def judge(digests: Sequence[Digest]) -> dict[str, Any]:
    """Minute 1 against minute N.

    `latency_drift` and `latency_trend` are shares of minute 1's median: of the last minute less the first, and of the
    line through all minutes (Theil and Sen's, which single disturbed minutes do not turn). `slower` if both exceed
    `LATENCY_LIMIT`. `growing` if memory grew by more than its limit, and still did in the second half: a cache that
    fills once is no leak. With fewer than two minutes nothing is judged.
    """
    if len(digests) < 2:
        return {"minutes": len(digests), "verdict": "too short to judge: two whole minutes are the least"}
    first, last = digests[0], digests[-1]
    medians = [digest["p50_ms"] for digest in digests]
    minutes = [digest["minute"] for digest in digests]
    drift = last["p50_ms"] / first["p50_ms"] - 1
    trend = _slope(minutes, medians) * (minutes[-1] - minutes[0]) / first["p50_ms"]
    slower = min(drift, trend) > LATENCY_LIMIT
    growth, growing = _growth([digest["memory_bytes"] for digest in digests])
    return {
        "minutes": len(digests),
        "first": first,
        "last": last,
        "latency_drift": round(drift, 4),
        "latency_trend": round(trend, 4),
        "memory_growth_bytes": growth,
        "slower": slower,
        "growing": growing,
        "verdict": _verdict(slower, growing),
    }


def _slope(places: Sequence[float], values: Sequence[float]) -> float:
    x, y = np.asarray(places, dtype=np.float64), np.asarray(values, dtype=np.float64)
    earlier, later = np.triu_indices(len(x), k=1)
    return float(np.median((y[later] - y[earlier]) / (x[later] - x[earlier])))


def _growth(memory: Sequence[int | None]) -> tuple[int | None, bool | None]:
    known = [each for each in memory if each is not None]
    if len(known) < 2:
        return None, None
    growth = known[-1] - known[0]
    limit = max(MEMORY_LIMIT * known[0], MEMORY_LIMIT_BYTES)
    late = known[-1] - known[(len(known) - 1) // 2]
    return growth, growth > limit and late > limit / 4


def _verdict(slower: bool, growing: bool | None) -> str:
    latency = "latency rose" if slower else "latency held"
    memory = {None: "memory not available here", True: "memory grows", False: "memory held"}[growing]
    return f"{latency}, {memory}"
