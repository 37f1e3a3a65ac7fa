from __future__ import annotations

import pytest

from rs4d_edge.bench.soak import MinuteLog, judge
from tests.bench.stand_ins import digest

MB = 1_000_000


def test_each_minute_has_a_digest_and_a_cut_one_has_none() -> None:
    memory = iter([1e6, 2e6, 3e6])
    log = MinuteLog(lambda: next(memory), deadline_ms=15)
    for second in range(0, 150, 10):
        log.add(second, 10.0 if second < 60 else 20.0)
    digests = log.finish()
    assert [(each["minute"], each["runs"], each["p50_ms"], each["misses"]) for each in digests] == [
        (1, 6, 10.0, 0),
        (2, 6, 20.0, 6),
    ]
    assert [each["memory_bytes"] for each in digests] == [MB, 2 * MB]


def test_a_last_minute_that_is_nearly_whole_counts() -> None:
    log = MinuteLog(lambda: None)
    for second in (0, 59, 60, 115):
        log.add(second, 10.0)
    assert [each["minute"] for each in log.finish()] == [1, 2]


def test_a_minute_in_which_no_run_ended_is_left_out() -> None:
    log = MinuteLog(lambda: None)
    for second in (10, 130, 190):
        log.add(second, 10.0)
    assert [each["minute"] for each in log.finish()] == [1, 3]


def test_what_holds_is_said_to_hold() -> None:
    found = judge([digest(minute, 20 + 0.1 * (minute % 2)) for minute in range(1, 31)])
    assert (found["slower"], found["growing"]) == (False, False)
    assert found["verdict"] == "latency held, memory held"


def test_a_drift_of_latency_is_found() -> None:
    found = judge([digest(minute, 20 * (1 + 0.01 * minute)) for minute in range(31)])
    assert found["latency_drift"] == pytest.approx(0.3) and found["latency_trend"] == pytest.approx(0.3)
    assert found["slower"] and found["verdict"].startswith("latency rose")


def test_one_disturbed_last_minute_is_no_drift() -> None:
    found = judge([*(digest(minute, 20.0) for minute in range(1, 30)), digest(30, 40.0)])
    assert found["latency_drift"] == 1.0 and found["latency_trend"] == 0 and not found["slower"]


def test_a_leak_is_found_and_a_cache_that_fills_is_none() -> None:
    leak = judge([digest(minute, 20.0, 100 * MB + minute * MB) for minute in range(1, 31)])
    assert leak["growing"] and leak["memory_growth_bytes"] == 29 * MB and leak["verdict"].endswith("memory grows")
    cache = judge([digest(minute, 20.0, 100 * MB + min(minute, 5) * 6 * MB) for minute in range(1, 31)])
    assert not cache["growing"] and cache["memory_growth_bytes"] == 24 * MB


def test_what_is_not_known_is_not_judged() -> None:
    assert judge([digest(1, 20.0)])["verdict"].startswith("too short")
    unknown = judge([digest(1, 20.0, None), digest(2, 20.0, None)])
    assert unknown["growing"] is None and unknown["verdict"].endswith("memory not available here")
