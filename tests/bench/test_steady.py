from __future__ import annotations

from collections.abc import Iterable

from rs4d_edge.bench.steady import SteadyDetector


def warm(times: Iterable[float], **settings: float) -> SteadyDetector:
    detector = SteadyDetector(window=4, **settings)  # type: ignore[arg-type]
    for ms in times:
        if detector.add(ms):
            break
    return detector


def test_even_runs_are_steady_after_three_windows() -> None:
    assert warm([20.0] * 100).record() == {"runs": 12, "steady": True}


def test_slow_first_runs_are_waited_for() -> None:
    falling = [200, 150, 120, 100, 90, 80, 70, 60, 50, 45, 40, 38]
    assert warm([*map(float, falling), *[30.0] * 100]).record() == {"runs": 12 + 12, "steady": True}


def test_a_single_outlier_does_not_matter() -> None:
    assert warm([20, 20, 500, 20] * 3).record() == {"runs": 12, "steady": True}


def test_windows_that_agree_once_are_not_enough() -> None:
    windows = [[10.0] * 4, [10.0] * 4, [30.0] * 4, [30.0] * 4, [50.0] * 4]
    assert not warm([ms for window in windows for ms in window]).steady


def test_what_never_settles_ends_at_the_cap() -> None:
    swinging = [10.0 if run // 4 % 2 else 20.0 for run in range(1000)]
    assert warm(swinging, most_runs=40).record() == {"runs": 40, "steady": False}
    assert warm(swinging, most_ms=300).record() == {"runs": 19, "steady": False}


def test_the_tolerance_decides() -> None:
    growing = [float(10 * 1.04**window) for window in range(20) for _ in range(4)]
    assert warm(growing, tolerance=0.05).steady
    assert not warm(growing, tolerance=0.03).steady
