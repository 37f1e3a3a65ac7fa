"""Runs and records with known times, for tests of what is measured and shown."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from rs4d_edge.bench.run_log import STAGES, RunLog
from rs4d_edge.bench.soak import Digest
from rs4d_edge.detections import Detections
from rs4d_edge.frames import Frame
from rs4d_edge.timing import StageTimings
from tests.stand_ins import square_detections


class CountedPath:
    """A frame path whose runs take `infer_ms` each by their own account; its clock is moved by runs alone."""

    def __init__(self, infer_ms: float = 100.0, fails_at: int | None = None) -> None:
        self.infer_ms, self.fails_at = infer_ms, fails_at
        self.runs = self.closed = 0

    def run(self, frame: Frame, /) -> Detections:
        self.runs += 1
        if self.runs == self.fails_at:
            raise ValueError("the frame path broke")
        detections = square_detections()
        detections.timings = StageTimings(resize_ms=1.0, infer_ms=self.infer_ms, post_ms=2.0)
        return detections

    def clock(self) -> float:
        """A tenth of a second for each run."""
        return self.runs / 10

    def __enter__(self) -> CountedPath:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self.closed += 1


def log_of(totals: list[float], deadline_ms: float | None = None, most_kept: int = 1000) -> RunLog:
    """Runs of these milliseconds, one a second, half of it in infer."""
    log = RunLog(deadline_ms, most_kept)
    for second, total in enumerate(totals):
        log.add(float(second), StageTimings(resize_ms=total / 4, infer_ms=total / 2, post_ms=0, mask_ms=total / 4))
    return log


def digest(minute: int, p50_ms: float, memory_bytes: int | None = 100 << 20) -> Digest:
    """One minute of a soak."""
    times = {f"p{rank}_ms": p50_ms for rank in (50, 90, 95, 99)}
    return {"minute": minute, "runs": 10, **times, "max_ms": p50_ms, "misses": None, "memory_bytes": memory_bytes}


def bundle_of(
    label: str = "bundle", scale: float = 1.0, runs: int = 400, seed: int = 0, **changes: Any
) -> dict[str, Any]:
    """The record of a bundle whose frames take about 20 ms times `scale`."""
    random = np.random.default_rng(seed)
    log = log_of((20 * scale * random.lognormal(0, 0.05, runs)).tolist(), deadline_ms=25.0)
    assert set(log.latency()) == set(STAGES)
    return {
        "bundle": f"bundles/{label}",
        "label": label,
        "manifest_sha256": "a" * 64,
        "model": "model",
        "target": "cpu",
        "runtime": "openvino",
        "precision": "fp32",
        "input_hw": [64, 64],
        "frame_hw": [40, 50],
        "threads": 1,
        "masks_rendered": True,
        "accuracy": None,
        "objects": 2,
        "load_ms": 300.0,
        "first_frame_ms": 30.0,
        "warm_up": {"runs": 24, "steady": True},
        "runs": runs,
        "seconds": 8.0,
        "frames_per_s": 50.0,
        "latency": log.latency(),
        "jitter_ms": log.jitter_ms,
        "deadline": log.deadline(),
        "times": log.kept(),
        "sensors": sensors(),
        "joules_per_frame": {},
        "memory": {"before_bytes": 1 << 20, "loaded_bytes": 2 << 20, "peak_bytes": 3 << 20, "peak_since": "loading"},
        **changes,
    }


def sensors() -> dict[str, Any]:
    """Memory and one temperature at three moments; nothing else is there."""
    series = {"memory:process": [1e6, 2e6, 3e6], "temperature:cpu-thermal": [40.0, None, 50.0]}
    spread = {"mean": 2.0, "least": 1.0, "most": 3.0, "growth": 2.0}
    return {
        "at_s": [0.0, 1.0, 2.0],
        "series": series,
        "summary": dict.fromkeys(series, spread),
        "absent": {"power": ["RAPL: no counter"]},
        "sampling_s": 0.01,
    }


def peer_of(label: str = "peer: other", scale: float = 1.0, runs: int = 400, **changes: Any) -> dict[str, Any]:
    """The record of a peer whose answers are not interpreted."""
    own = {
        "peer": "other.onnx",
        "file_sha256": "b" * 64,
        "weights": "random",
        "about": "Another network.",
        "interpreted": False,
        "masks_rendered": False,
        "objects": None,
        "over_bundle": {"label": "bundle", "ratio": 2.0, "least": 1.5, "most": 2.5, "rounds": 5},
    }
    record = bundle_of(label, scale, runs, **{**own, **changes})
    return {name: value for name, value in record.items() if name not in ("bundle", "manifest_sha256", "target")}


def record_of(*bundles: dict[str, Any], peers: Sequence[dict[str, Any]] = (), **machine: Any) -> dict[str, Any]:
    """A record of rs4d-bench on a named processor."""
    return {
        "command": "rs4d-bench",
        "machine": {"processor": "a processor", "cores": 2, **machine},
        "bundles": list(bundles),
        "peers": list(peers),
    }
