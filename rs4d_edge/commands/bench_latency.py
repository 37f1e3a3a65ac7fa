"""How long a bundle takes for one frame, again and again."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from rs4d_edge.frames import Frame
from rs4d_edge.predictor import Predictor
from rs4d_edge.timing import StageTimings

WARM_UP_RUNS = 3
STAGES = ("resize_ms", "infer_ms", "post_ms", "total_ms")


class Latency(NamedTuple):
    """Milliseconds of each run by stage, and how many objects were found in the frame."""

    runs: dict[str, list[float]]
    objects: int

    def figures(self) -> dict[str, dict[str, float]]:
        """Median, 90th percentile and maximum of each stage."""
        return {
            stage.removesuffix("_ms"): {
                "p50_ms": round(float(np.percentile(values, 50)), 3),
                "p90_ms": round(float(np.percentile(values, 90)), 3),
                "max_ms": round(max(values), 3),
            }
            for stage, values in self.runs.items()
        }

    def kept(self) -> dict[str, Any]:
        """The runs in their order: milliseconds by stage, to a microsecond."""
        stages = {stage.removesuffix("_ms"): [round(ms, 3) for ms in times] for stage, times in self.runs.items()}
        return {"of": len(stages["total"]), "stages_ms": stages}


def measure(predictor: Predictor, frame: Frame, runs: int) -> Latency:
    """Run on `frame` (RGB) `runs` times after a warm-up. Masks are not rendered: that happens when they are used."""
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    objects = 0
    for run in range(WARM_UP_RUNS + runs):
        detections = predictor.run(frame)
        objects = len(detections)
        if run >= WARM_UP_RUNS:
            _keep(times, detections.timings)
    return Latency(times, objects)


def _keep(times: dict[str, list[float]], timings: StageTimings) -> None:
    for stage in STAGES:
        times[stage].append(float(getattr(timings, stage)))
