from __future__ import annotations

from pathlib import Path

import pytest

from rs4d_edge.bench.measuring import Plan, measure_bundle
from rs4d_edge.bench.peak import reset_peak, resident_peak_bytes
from rs4d_edge.bench.sources import Source
from rs4d_edge.bench.steady import AGREEMENTS, WINDOW
from rs4d_edge.bench.streams import WARM_UP_RUNS, measure_streams
from tests.bench.stand_ins import CountedPath
from tests.stand_ins import golden_frame


class Meter(Source):
    """20 W."""

    name, kinds = "meter", ("power",)

    def read(self) -> dict[str, float]:
        return {"power:meter": 20.0}


def test_a_bundle_is_loaded_warmed_up_and_measured_for_so_long() -> None:
    path = CountedPath(infer_ms=100.0)
    told: list[str] = []
    plan = Plan(seconds=2.0, deadline_ms=50.0)
    record = measure_bundle(lambda: path, golden_frame(), plan, [Meter()], progress=told.append, clock=path.clock)
    warm_up = WINDOW * (AGREEMENTS + 1)
    assert record["warm_up"] == {"runs": warm_up, "steady": True}
    assert (record["runs"], record["seconds"], record["frames_per_s"]) == (20, 2.0, 10.0)
    assert path.runs == 1 + warm_up + 20 and path.closed == 1
    assert (record["load_ms"], record["first_frame_ms"]) == (0.0, 100.0)
    assert record["latency"]["infer"]["p99_ms"] == 100.0 and record["latency"]["total"]["p50_ms"] >= 103.0
    assert record["deadline"] == {"deadline_ms": 50.0, "misses": 20, "share": 1.0}
    assert record["objects"] == 2
    assert record["joules_per_frame"] == {"meter": 2.0}
    assert record["memory"]["peak_bytes"] > 1 << 20
    assert "streams" not in record and "soak" not in record
    assert told[:2] == ["loading", "warming up"]


def test_masks_are_rendered_in_every_run() -> None:
    path = CountedPath()
    record = measure_bundle(lambda: path, golden_frame(), Plan(seconds=0.5), [], clock=path.clock)
    times = record["times"]["stages_ms"]
    assert all(ms >= 0 for ms in times["mask"]) and len(times["mask"]) == 5
    for total, *stages in zip(
        times["total"], *(times[each] for each in ("resize", "infer", "post", "mask")), strict=True
    ):
        assert total == pytest.approx(sum(stages), abs=0.002)


def test_a_soak_has_minutes_and_a_verdict() -> None:
    path = CountedPath()
    record = measure_bundle(lambda: path, golden_frame(), Plan(120.0, soak=True), [], clock=path.clock)
    assert [each["minute"] for each in record["minutes"]] == [1, 2]
    assert record["soak"]["minutes"] == 2 and record["soak"]["verdict"].startswith("latency held")


def test_what_fails_closes_the_predictor() -> None:
    path = CountedPath(fails_at=40)
    with pytest.raises(ValueError, match="broke"):
        measure_bundle(lambda: path, golden_frame(), Plan(seconds=9.0), [], clock=path.clock)
    assert path.closed == 1


def test_every_stream_has_a_path_of_its_own_and_all_frames_count() -> None:
    paths: list[CountedPath] = []

    def open_path() -> CountedPath:
        paths.append(CountedPath())
        return paths[-1]

    found = measure_streams(
        open_path, golden_frame(), 3, 1.0, deadline_ms=50, clock=lambda: min(path.runs for path in paths) / 10
    )
    assert len(paths) == 3 and [path.closed for path in paths] == [1, 1, 1]
    assert found["streams"] == 3
    assert found["frames"] == sum(path.runs - WARM_UP_RUNS for path in paths)
    assert found["misses"] == found["frames"] and found["seconds"] >= 1.0
    assert found["frames_per_s"] == pytest.approx(found["frames"] / found["seconds"], rel=1e-3)


@pytest.mark.parametrize("fails_at", [2, WARM_UP_RUNS + 3])
def test_a_stream_that_fails_ends_all(fails_at: int) -> None:
    paths = [CountedPath(), CountedPath(fails_at=fails_at)]
    waiting = iter(paths)
    with pytest.raises(ValueError, match="broke"):
        measure_streams(lambda: next(waiting), golden_frame(), 2, 1e9, clock=lambda: 0.0)
    assert [path.closed for path in paths] == [1, 1]


def test_the_peak_begins_anew_where_the_system_allows(tmp_path: Path) -> None:
    assert not reset_peak(tmp_path / "absent" / "clear_refs")
    assert resident_peak_bytes() > 1 << 20
