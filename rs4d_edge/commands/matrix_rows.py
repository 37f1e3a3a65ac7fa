"""The rows of `rs4d-bench --matrix`: what was measured of each bundle, and how it stands beside fp32."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NOTABLE_DROP = 0.03  # of a class's mask AP50 against fp32; a class that loses more is named
BASELINE = "fp32"


@dataclass
class Row:
    """One bundle of the table. `what` is how the row is called, `options` what rs4d-export was told, if it was.

    `refused` says why there are no figures. `figures` are those of `rs4d_edge.evaluation.coco.evaluate`, `times_ms` are
    end to end, `peak_bytes` is the largest resident memory of a process of its own, `before_bytes` the part of it from
    before the model was opened, and `peak_absent` why it is not known.
    """

    what: str
    target: str
    precision: str
    options: str | None = None
    exported: str | None = None
    refused: str | None = None
    model_bytes: int | None = None
    figures: dict[str, Any] | None = None
    times_ms: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    before_bytes: int | None = None
    peak_absent: str | None = None

    @property
    def p50_ms(self) -> float | None:
        """Median of the times, None without any."""
        return float(np.percentile(self.times_ms, 50)) if self.times_ms else None

    @property
    def mask_ap50(self) -> dict[str, float | None]:
        """Mask AP50 of each class, None for a class without objects."""
        if self.figures is None:
            return {}
        return {name: measures["AP50"] for name, measures in self.figures["segm"]["per_class"].items()}


def records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each row with its ratios, for the JSON and the tables; None stands for what is not known."""
    times = [row.p50_ms for row in rows if row.precision == BASELINE]
    fastest = min((each for each in times if each is not None), default=None)
    return [_record(row, baseline_of(row, rows), fastest) for row in rows]


def baseline_of(row: Row, rows: Iterable[Row]) -> Row | None:
    """The fp32 row of the same target, None where there is none with figures."""
    return next((each for each in rows if each.target == row.target and _is_baseline(each)), None)


def _is_baseline(row: Row) -> bool:
    return row.precision == BASELINE and row.refused is None


def ratio(over: float | None, under: float | None) -> float | None:
    """None where one is missing."""
    return over / under if over is not None and under else None


def lost_classes(row: Row, baseline: Row | None) -> dict[str, float]:
    """The classes whose mask AP50 is more than `NOTABLE_DROP` below the baseline's, and by how much; largest first."""
    reference = baseline.mask_ap50 if baseline is not None else {}
    drops: dict[str, float] = {}
    for name, found in row.mask_ap50.items():
        before = reference.get(name)
        if before is not None and found is not None:
            drops[name] = round(before - found, 6)  # a difference of 0.03 is not to be more by a rounding error
    notable = {name: drop for name, drop in drops.items() if drop > NOTABLE_DROP}
    return dict(sorted(notable.items(), key=lambda item: -item[1]))


def _record(row: Row, baseline: Row | None, fastest_ms: float | None) -> dict[str, Any]:
    known = baseline if baseline is not None else Row("", row.target, BASELINE)
    p90 = float(np.percentile(row.times_ms, 90)) if row.times_ms else None
    return {
        "what": row.what,
        "target": row.target,
        "precision": row.precision,
        "options": row.options,
        "exported": row.exported,
        "refused": row.refused,
        **{name: _accuracy(row.figures, kind) for name, kind in (("box", "bbox"), ("mask", "segm"))},
        "mask_ap50_per_class": row.mask_ap50,
        "lost_classes": lost_classes(row, baseline),
        "p50_ms": row.p50_ms,
        "p90_ms": p90,
        "latency_ratio": ratio(row.p50_ms, known.p50_ms),
        "latency_ratio_to_fastest_fp32": ratio(row.p50_ms, fastest_ms),
        "model_bytes": row.model_bytes,
        "size_ratio": ratio(row.model_bytes, known.model_bytes),
        "peak_bytes": row.peak_bytes,
        "before_bytes": row.before_bytes,
        "peak_absent": row.peak_absent,
        "peak_ratio": ratio(row.peak_bytes, known.peak_bytes),
    }


def _accuracy(figures: dict[str, Any] | None, kind: str) -> dict[str, float | None]:
    return {name: figures[kind][name] if figures is not None else None for name in ("AP", "AP50")}
