"""How long a model takes beside another: both in one process, in turns, so that what disturbs one disturbs both."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rs4d_edge.calibration.calibration_set import Feeds
from rs4d_edge.export.recipes import Precision, Recipe
from rs4d_edge.runtimes.contract import Runtime
from rs4d_edge.runtimes.table import open_runtime

FRAMES = 3
WARM_UP_RUNS = 2
MOST_TURNS, LEAST_TURNS = 24, 6
BUDGET_S = 20.0  # a large model gets fewer turns, so that a search with many steps still ends
PAUSE_S = 0.03  # worker threads that spin for more work after a call have gone to sleep by then


class LatencyRatio:
    """The median time of a model with any layers restored, over that of the fp32 model at `reference`."""

    def __init__(
        self,
        write: Callable[[frozenset[str]], Path],
        reference: Path,
        recipe: Recipe,
        feeds: Sequence[Feeds],
        threads: int | None,
    ) -> None:
        """`write` writes the model with the layers restored that it is given, for the target of `recipe`."""
        self._write, self._reference, self._recipe = write, reference, recipe
        self._feeds, self._threads = feeds, threads

    def __call__(self, restored: frozenset[str]) -> float:
        """Measure once more, with both models opened anew."""
        path = self._write(restored)
        with contextlib.ExitStack() as opened:
            reference, model = (
                opened.enter_context(contextlib.closing(self._open(each, precision)))
                for each, precision in ((self._reference, Precision.FP32), (path, self._recipe.precision))
            )
            return median_ratio(model, reference, self._feeds)

    def _open(self, path: Path, precision: Precision) -> Runtime:
        return open_runtime(self._recipe.target.gate_runtime, path, threads=self._threads, precision=precision.value)


def median_ratio(
    model: Runtime, reference: Runtime, feeds: Sequence[Feeds], clock: Callable[[], float] = time.perf_counter
) -> float:
    """The median time of `model` over that of `reference`, which run by turns on `feeds`, one after the other."""
    begin = clock()
    for _ in range(WARM_UP_RUNS):
        for runtime in (reference, model):
            runtime.run(feeds[0])
    pair_s = (clock() - begin) / WARM_UP_RUNS
    turns = max(LEAST_TURNS, min(MOST_TURNS, int(BUDGET_S / max(pair_s, 1e-9))))
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns):
        for runtime, own in zip((reference, model), times, strict=True):
            time.sleep(PAUSE_S)
            begin = clock()
            runtime.run(feeds[turn % len(feeds)])
            own.append(clock() - begin)
    return statistics.median(times[1]) / statistics.median(times[0])
