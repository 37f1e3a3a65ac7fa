"""Everything that is measured of one bundle on this device, as one record."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rs4d_edge.bench.accuracy import accuracy_record
from rs4d_edge.bench.peak import reset_peak, resident_peak_bytes
from rs4d_edge.bench.run_log import RunLog
from rs4d_edge.bench.sampler import Sampler, joules
from rs4d_edge.bench.soak import MinuteLog, judge
from rs4d_edge.bench.sources import ProcessUse, Source
from rs4d_edge.bench.steady import SteadyDetector
from rs4d_edge.bench.streams import Clock, FramePath, Opener, measure_streams, run_frame
from rs4d_edge.bundle import Bundle, sha256_of
from rs4d_edge.frames import Frame
from rs4d_edge.manifest import MANIFEST_NAME

STREAMS_SHARE = 0.25  # of the measurement's time, for each number of streams
SHORTEST_INTERVAL_S = 0.1
SAMPLES = 20  # at least so many where a measurement is short

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How to measure. `seconds` is the time that counts, after the warm-up; `streams` the most at once."""

    seconds: float
    soak: bool = False
    streams: int | None = None
    deadline_ms: float | None = None
    threads: int | None = None


def measure_bundle(
    opener: Opener,
    frame: Frame,
    plan: Plan,
    sources: Sequence[Source],
    *,
    progress: Progress = lambda _: None,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Load, first frame, warm-up, runs, and if asked for several streams; see the keys for what is told."""
    process = next((source for source in sources if isinstance(source, ProcessUse)), ProcessUse())
    peak_is_own = reset_peak()
    before = process.memory_bytes()
    progress("loading")
    begin = clock()
    predictor = opener()
    load_ms = (clock() - begin) * 1e3
    with predictor:
        loaded = process.memory_bytes()
        begin = clock()
        objects = len(run_frame(predictor, frame))
        first_ms = (clock() - begin) * 1e3
        progress("warming up")
        warm_up = SteadyDetector()
        while not warm_up.add(run_frame(predictor, frame).timings.total_ms):
            pass
        measured = _measure(predictor, frame, plan, sources, process, progress, clock)
    memory = {
        "before_bytes": _whole(before),
        "loaded_bytes": _whole(loaded),
        "peak_bytes": resident_peak_bytes(),
        "peak_since": "this bundle's loading" if peak_is_own else "the process's start",
    }
    record = {
        "objects": objects,
        "load_ms": round(load_ms, 3),
        "first_frame_ms": round(first_ms, 3),
        "warm_up": warm_up.record(),
        **measured,
        "memory": memory,
    }
    if plan.streams is not None:
        record["streams"] = _streams(opener, frame, plan, progress, clock)
    return record


def _measure(
    predictor: FramePath,
    frame: Frame,
    plan: Plan,
    sources: Sequence[Source],
    process: ProcessUse,
    progress: Progress,
    clock: Clock,
) -> dict[str, Any]:
    log = RunLog(plan.deadline_ms)
    minutes = MinuteLog(process.memory_bytes, plan.deadline_ms) if plan.soak else None
    interval_s = min(1.0, max(SHORTEST_INTERVAL_S, plan.seconds / SAMPLES))
    gc.collect()
    begin = clock()
    told = 0.0
    with Sampler(sources, interval_s=interval_s, clock=clock) as sampler:
        while True:
            detections = run_frame(predictor, frame)
            at_s = clock() - begin
            log.add(at_s, detections.timings)
            if minutes is not None:
                minutes.add(at_s, detections.timings.total_ms)
            if at_s >= plan.seconds:
                break
            if at_s >= told + 1:
                told = at_s
                progress(f"{at_s:.0f} of {plan.seconds:g} s")
    sensors = sampler.record()
    energy = {label: round(each / log.count, 6) for label, each in joules(sampler, sensors["series"]).items()}
    digests = None if minutes is None else minutes.finish()
    soak = {} if digests is None else {"minutes": digests, "soak": judge(digests)}
    return {
        "runs": log.count,
        "seconds": round(at_s, 3),
        "frames_per_s": round(log.count / at_s, 3),
        "latency": log.latency(),
        "jitter_ms": None if log.jitter_ms is None else round(log.jitter_ms, 3),
        "deadline": log.deadline(),
        "times": log.kept(),
        "sensors": sensors,
        "joules_per_frame": energy,
        **soak,
    }


def _streams(opener: Opener, frame: Frame, plan: Plan, progress: Progress, clock: Clock) -> list[dict[str, Any]]:
    seconds = max(plan.seconds * STREAMS_SHARE, 1.0) if not plan.soak else 15.0
    found = []
    for streams in range(1, (plan.streams or 1) + 1):
        progress(f"{streams} at once for {seconds:g} s")
        found.append(measure_streams(opener, frame, streams, seconds, deadline_ms=plan.deadline_ms, clock=clock))
    return found


def bundle_record(
    bundle: Bundle, engine: str, threads: int | None, frame: Frame, *, masks_rendered: bool = True
) -> dict[str, Any]:
    """What was measured: the bundle by name and hash, its formats, and the accuracy that its manifest tells."""
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.path),
        "label": bundle.path.resolve().name,
        "manifest_sha256": sha256_of(bundle.path / MANIFEST_NAME),
        "model": manifest.name,
        "target": manifest.target,
        "runtime": engine,
        "precision": manifest.precision,
        "input_hw": list(manifest.contract.image_size_hw),
        "frame_hw": list(frame.shape[:2]),
        "threads": threads,
        "masks_rendered": masks_rendered,
        "accuracy": accuracy_record(manifest),
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
