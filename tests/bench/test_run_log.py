from __future__ import annotations

import numpy as np
import pytest

from rs4d_edge.bench.run_log import STAGES, Reservoir, RunLog
from rs4d_edge.timing import StageTimings
from tests.bench.stand_ins import log_of


def test_percentiles_of_known_numbers() -> None:
    latency = log_of([float(value) for value in range(1, 102)]).latency()
    assert tuple(latency) == STAGES
    assert latency["total"] == {"p50_ms": 51.0, "p90_ms": 91.0, "p95_ms": 96.0, "p99_ms": 100.0, "max_ms": 101.0}
    assert latency["infer"]["p50_ms"] == 25.5
    assert latency["post"]["max_ms"] == 0


def test_jitter_is_the_mean_step_between_neighbours() -> None:
    assert log_of([10.0, 12.0, 9.0]).jitter_ms == pytest.approx(2.5)
    assert log_of([10.0]).jitter_ms is None


def test_a_miss_is_later_than_the_deadline() -> None:
    assert log_of([10, 20, 30, 40], deadline_ms=20).deadline() == {"deadline_ms": 20, "misses": 2, "share": 0.5}
    assert log_of([10, 20]).deadline() is None


def test_runs_are_kept_to_a_microsecond_in_their_order() -> None:
    log = RunLog()
    log.add(0.0501234, StageTimings(1.23456, 2.0, 3.0, 4.0))
    log.add(0.1, StageTimings(2.0, 2.0, 3.0, 4.0))
    kept = log.kept()
    assert (kept["of"], kept["at_s"]) == (2, [0.05, 0.1])
    assert kept["stages_ms"]["resize"] == [1.235, 2.0]
    assert kept["stages_ms"]["total"] == [10.235, 11.0]


def test_many_runs_are_thinned_and_what_is_exact_stays_exact() -> None:
    log = log_of([float(value) for value in range(5000)], deadline_ms=3999, most_kept=500)
    kept = log.kept()
    assert (kept["of"], len(kept["at_s"])) == (5000, 500)
    assert kept["at_s"] == sorted(kept["at_s"])
    assert kept["stages_ms"]["total"] == kept["at_s"]  # rows stay together
    assert log.latency()["total"]["max_ms"] == 4999
    assert (log.misses, log.jitter_ms) == (1000, 1.0)


def test_a_reservoir_is_a_fair_sample() -> None:
    reservoir = Reservoir(1, 1000)
    for value in range(20_000):
        reservoir.add(float(value))
    counts = np.histogram(reservoir.rows[:, 0], bins=4, range=(0, 20_000))[0]
    assert counts.sum() == 1000 and counts.min() > 200
