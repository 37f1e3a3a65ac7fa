"""When a warm-up is over: detected from the times of the runs, not guessed as a number of them."""

from __future__ import annotations

import statistics

WINDOW = 8  # runs
TOLERANCE = 0.05
AGREEMENTS = 2
MOST_RUNS = 200
MOST_MS = 30_000.0


class SteadyDetector:
    """Steady is when the medians of consecutive windows of runs agree within `tolerance`, `agreements` times in a row.

    After `most_runs` runs or `most_ms` milliseconds of running the wait ends all the same, and `steady` stays False.
    """

    def __init__(
        self,
        *,
        window: int = WINDOW,
        tolerance: float = TOLERANCE,
        agreements: int = AGREEMENTS,
        most_runs: int = MOST_RUNS,
        most_ms: float = MOST_MS,
    ) -> None:
        self.steady = False
        self.runs = 0
        self._window, self._tolerance, self._agreements = window, tolerance, agreements
        self._most_runs, self._most_ms = most_runs, most_ms
        self._total_ms = 0.0
        self._current: list[float] = []
        self._before: float | None = None
        self._agreed = 0

    @property
    def ended(self) -> bool:
        """Whether to stop warming up: steady, or waited long enough."""
        return self.steady or self.runs >= self._most_runs or self._total_ms >= self._most_ms

    def add(self, ms: float) -> bool:
        """Take in the time of one more run; answers `ended`."""
        self.runs += 1
        self._total_ms += ms
        self._current.append(ms)
        if len(self._current) == self._window:
            self._close_window(statistics.median(self._current))
            self._current.clear()
        return self.ended

    def _close_window(self, median: float) -> None:
        before, self._before = self._before, median
        if before is None:
            return
        agrees = abs(median - before) <= self._tolerance * before
        self._agreed = self._agreed + 1 if agrees else 0
        self.steady = self.steady or self._agreed >= self._agreements

    def record(self) -> dict[str, int | bool]:
        """How many runs the warm-up took, and whether they became steady."""
        return {"runs": self.runs, "steady": self.steady}
