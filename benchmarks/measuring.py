"""What the benchmarks of the encoder and of whole networks share: timing in turns, peak memory, bars and records."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import openvino
from rich.table import Table

WARM_UP_RUNS = 2
PAUSE_S = 0.03  # worker threads that spin for more work after a call have gone to sleep by then
_QUIET = ("OMP_WAIT_POLICY", "PASSIVE")


class Timed(NamedTuple):
    """A function to time, and how often: slow ones get by with few runs."""

    call: Callable[[], object]
    runs: int
    warm_up: int = WARM_UP_RUNS


class Times(NamedTuple):
    """Milliseconds: the median and the least of `runs` runs."""

    median_ms: float
    least_ms: float
    runs: int


def restart_with_quiet_threads() -> None:
    """Start this script again with OpenMP's threads asleep while they wait, unless they are.

    Torch's would spin for a while after each call, on the cores that the next engine in turn is timed on. OpenMP reads
    the variable when it is loaded, so that setting it here comes too late.
    """
    name, value = _QUIET
    if os.environ.get(name) != value:
        os.execve(sys.executable, sys.orig_argv, os.environ | {name: value})


def take_turns(functions: Mapping[str, Timed]) -> dict[str, Times]:
    """Time the functions in turns, so that what disturbs the machine disturbs all of them.

    Each has its warm-up runs first, then one run a round until it has had its number.
    """
    for function in functions.values():
        for _ in range(function.warm_up):
            function.call()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(max(function.runs for function in functions.values())):
        for name, function in functions.items():
            if turn < function.runs:
                time.sleep(PAUSE_S)
                begin = time.perf_counter()
                function.call()
                times[name].append((time.perf_counter() - begin) * 1e3)
    return {name: Times(statistics.median(each), min(each), len(each)) for name, each in times.items()}


def has_bf16() -> bool:
    """Whether this processor computes in bf16, by OpenVINO's judgement."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def precisions() -> tuple[str, ...]:
    """Those that this machine computes in."""
    return ("fp32", "bf16") if has_bf16() else ("fp32",)


class Bar(NamedTuple):
    """A limit and what was measured; `measured` None says that it was not, `absent` why."""

    name: str
    limit: float
    measured: float | None
    at_least: bool = False
    judged: bool = True
    absent: str = "not available here"

    @property
    def verdict(self) -> str:
        """In words."""
        if self.measured is None:
            return self.absent
        if not self.judged:
            return "not judged"
        met = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return "met" if met else "not met"

    def record(self) -> dict[str, Any]:
        """For the JSON."""
        sense = "at least" if self.at_least else "at most"
        return {
            "name": self.name,
            "bar": f"{sense} {self.limit:g}",
            "measured": self.measured,
            "verdict": self.verdict,
        }


def bars_table(bars: Sequence[Bar]) -> Table:
    """One row for each bar."""
    table = Table("", title="Bars")
    for heading in ("bar", "measured", "verdict"):
        table.add_column(heading, justify="right")
    styles = {"met": "green", "not met": "red"}
    for bar in bars:
        measured = "-" if bar.measured is None else f"{bar.measured:.2f}"
        limit = f"{'>=' if bar.at_least else '<='} {bar.limit:g}"
        table.add_row(bar.name, limit, measured, bar.verdict, style=styles.get(bar.verdict, "dim"))
    return table


def ratio(over: Times | None, under: Times | None) -> float | None:
    """The ratio of two medians, None where one is missing."""
    return None if over is None or under is None else over.median_ms / under.median_ms
