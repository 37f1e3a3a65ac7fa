from __future__ import annotations

import time

from rs4d_edge.timing import StageTimings, Stopwatch


def test_stages_add_up() -> None:
    timings = StageTimings(resize_ms=1.5, infer_ms=20, post_ms=0.25)
    timings.mask_ms += 3
    assert timings.total_ms == 24.75
    assert timings.to_dict() == {"resize_ms": 1.5, "infer_ms": 20, "post_ms": 0.25, "mask_ms": 3, "total_ms": 24.75}


def test_laps_follow_each_other() -> None:
    start = time.perf_counter()
    watch = Stopwatch()
    laps = [watch.lap_ms() for _ in range(3)]
    assert all(lap >= 0 for lap in laps)
    assert sum(laps) <= (time.perf_counter() - start) * 1e3
