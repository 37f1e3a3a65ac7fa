"""Throughput with several streams at once: a thread and a Predictor for each, as a device with several cameras has."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Protocol

from rs4d_edge.bench.run_log import RunLog
from rs4d_edge.detections import Detections
from rs4d_edge.frames import Frame

WARM_UP_RUNS = 5  # of each stream; the machine itself has been warmed up before


class FramePath(Protocol):
    """What is measured of a Predictor."""

    def run(self, frame: Frame, /) -> Detections:
        """The objects in a frame (H, W, 3) uint8 RGB, with how long they took."""
        ...

    def __enter__(self) -> FramePath: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


Opener = Callable[[], FramePath]
Clock = Callable[[], float]


def run_frame(predictor: FramePath, frame: Frame) -> Detections:
    """Frame in, detections and all their masks out."""
    detections = predictor.run(frame)
    detections.mask_crops()
    return detections


def measure_streams(
    opener: Opener,
    frame: Frame,
    streams: int,
    seconds: float,
    *,
    deadline_ms: float | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Run `streams` of them for `seconds`, each one frame after the other; all are opened and warm before it counts.

    Frames a second are all frames over the time until the last stream had finished its last one. Whatever one stream
    raises ends all and is raised.
    """
    with ExitStack() as opened:
        predictors = [opened.enter_context(opener()) for _ in range(streams)]
        race = _Race(seconds, frame, streams, deadline_ms, clock)
        threads = [threading.Thread(target=race.run, args=(place, each)) for place, each in enumerate(predictors)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if race.errors:
        raise race.errors[0]
    return race.record()


class _Race:
    """What the threads of one measurement share."""

    def __init__(self, seconds: float, frame: Frame, streams: int, deadline_ms: float | None, clock: Clock) -> None:
        self.errors: list[BaseException] = []
        self._seconds, self._frame, self._clock = seconds, frame, clock
        self._logs = [RunLog(deadline_ms) for _ in range(streams)]
        self._ends = [0.0] * streams
        self._begin = 0.0
        self._line = threading.Barrier(streams, action=self._start)

    def _start(self) -> None:
        self._begin = self._clock()

    def run(self, place: int, predictor: FramePath) -> None:
        try:
            for _ in range(WARM_UP_RUNS):
                run_frame(predictor, self._frame)
            self._line.wait()
            log = self._logs[place]
            while not self.errors:
                detections = run_frame(predictor, self._frame)
                at_s = self._clock() - self._begin
                log.add(at_s, detections.timings)
                if at_s >= self._seconds:
                    break
            self._ends[place] = self._clock() - self._begin
        except threading.BrokenBarrierError:
            pass  # another stream failed, and tells why
        except BaseException as error:
            self.errors.append(error)
            self._line.abort()

    def record(self) -> dict[str, Any]:
        frames = sum(log.count for log in self._logs)
        misses = None if self._logs[0].deadline_ms is None else sum(log.misses for log in self._logs)
        return {
            "streams": len(self._logs),
            "frames": frames,
            "seconds": round(max(self._ends), 3),
            "frames_per_s": round(frames / max(self._ends), 3),
            "slowest_p50_ms": max(log.latency()["total"]["p50_ms"] for log in self._logs),
            "slowest_p99_ms": max(log.latency()["total"]["p99_ms"] for log in self._logs),
            "misses": misses,
        }
