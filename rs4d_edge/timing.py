"""How long each stage of one `Predictor.run` took."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(slots=True)
class StageTimings:
    """Milliseconds of wall time by a monotonic clock.

    `resize_ms`: checks, resize and padding of the frame. `infer_ms`: the runtime's call. `post_ms`: from the network's
    outputs to `Detections`. `mask_ms`: rendering of mask crops so far; masks are rendered when first asked for, so it
    is 0 after `run` and grows by each mask that is used.
    """

    resize_ms: float = 0.0
    infer_ms: float = 0.0
    post_ms: float = 0.0
    mask_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        """Sum of the stages so far."""
        return self.resize_ms + self.infer_ms + self.post_ms + self.mask_ms

    def to_dict(self) -> dict[str, float]:
        """The stages and their total by name, rounded to a microsecond."""
        stages = ("resize_ms", "infer_ms", "post_ms", "mask_ms", "total_ms")
        return {stage: round(float(getattr(self, stage)), 3) for stage in stages}


class Stopwatch:
    """Splits one stretch of time into consecutive laps."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap_ms(self) -> float:
        """Milliseconds since the last lap (or since the start)."""
        now = time.perf_counter()
        elapsed = (now - self._last) * 1e3
        self._last = now
        return elapsed
