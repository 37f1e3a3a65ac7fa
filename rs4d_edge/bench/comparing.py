"""What changed between two records of rs4d-bench beyond noise: a bootstrap over the runs that they keep.

Noise is what the runs of one record tell of it: consecutive runs are resampled together, because a disturbance lasts
longer than one. What differs between two starts of the same bundle (heat, other work, where memory lies) is in no
record; the threshold has to cover it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rs4d_edge.errors import InputError

THRESHOLD = 0.05
RESAMPLES = 1000
CONFIDENCE = 0.98
CHUNK = 50  # resamples at once, to bound memory
FEWEST_RUNS = 20
DECISIVE = (("total", 50), ("total", 95))
STAGES = ("resize", "infer", "post", "mask")
ALSO = {  # what is told without a verdict: (where in the record, factor)
    "loading, ms": ("load_ms", 1.0),
    "first frame, ms": ("first_frame_ms", 1.0),
    "frames/s": ("frames_per_s", 1.0),
    "jitter, ms": ("jitter_ms", 1.0),
    "peak memory, MB": ("memory.peak_bytes", 1e-6),
}
CONDITIONS = ("threads", "frame_hw", "input_hw", "manifest_sha256", "runtime")
PEER_CONDITIONS = ("threads", "frame_hw", "input_hw", "file_sha256", "weights")
MACHINE = ("processor", "board", "gpus", "cores", "usable_cores", "governors", "power_mode", "os", "python", "packages")

Times = npt.NDArray[np.float64]


class Change(NamedTuple):
    """A percentile of a stage before and after: `ratio` after over before, its interval, and what follows."""

    stage: str
    rank: int
    before_ms: float
    after_ms: float
    ratio: float
    low: float
    high: float
    finding: str


class Pair(NamedTuple):
    """One bundle in both records."""

    label: str
    changes: list[Change]
    also: dict[str, tuple[float, float]]
    conditions: list[str]

    @property
    def slower(self) -> bool:
        """Whether a frame takes longer from end to end, beyond threshold and noise, in the median or at 95 %."""
        return any(change.finding == "slower" and (change.stage, change.rank) in DECISIVE for change in self.changes)


def compare(
    before: dict[str, Any], after: dict[str, Any], threshold: float = THRESHOLD
) -> tuple[list[Pair], list[str]]:
    """The bundles that are in both records, and the names of those that are in one alone."""
    pairs, alone = _paired(before["bundles"], after["bundles"])
    machines = list(_differences(before["machine"], after["machine"], MACHINE))
    found = []
    for old, new in pairs:
        if old["masks_rendered"] != new["masks_rendered"]:
            raise InputError(
                f"{old['label']}: one record was measured with masks and the other without, so their times mean "
                "different things: measure both with --duration"
            )
        conditions = [*machines, *_differences(old, new, CONDITIONS)]
        found.append(Pair(new["label"], _changes(old, new, threshold), dict(_also(old, new)), conditions))
    return found, alone


def compare_peers(before: dict[str, Any], after: dict[str, Any], threshold: float = THRESHOLD) -> list[Pair]:
    """The peers that have enough runs in both records: where they changed too, it was the machine that did."""
    olds = {each["label"]: each for each in before.get("peers", ())}
    machines = list(_differences(before["machine"], after["machine"], MACHINE))
    found = []
    for new in after.get("peers", ()):
        old = olds.get(new["label"])
        if old is not None and min(len(each["times"]["stages_ms"]["total"]) for each in (old, new)) >= FEWEST_RUNS:
            conditions = [*machines, *_differences(old, new, PEER_CONDITIONS)]
            found.append(Pair(new["label"], _changes(old, new, threshold), dict(_also(old, new)), conditions))
    return found


def read_record(path: Path) -> dict[str, Any]:
    """A file that rs4d-bench --json wrote; one bundle alone becomes a list of one. `InputError` for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): expected what rs4d-bench --json wrote") from error
    try:
        bundles = content.get("bundles", [content])
        for each in [*bundles, *content.get("peers", ())]:
            known = isinstance(each["label"], str) and isinstance(each["masks_rendered"], bool)
            if not known or not each["times"]["stages_ms"]["total"]:
                raise KeyError("times")
        return {**content, "machine": dict(content["machine"]), "bundles": bundles}
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no runs of a bundle ({error!r}): expected what this version's rs4d-bench BUNDLE --json wrote"
        ) from error


def ratio_interval(before: Times, after: Times, rank: int, seed: int = 0) -> tuple[float, float, float]:
    """The ratio of a percentile after to before, and the ends of its interval; all 1 if both are 0."""
    old, new = np.percentile(before, rank), np.percentile(after, rank)
    if old <= 0:
        return (1.0, 1.0, 1.0) if new <= 0 else (math.inf, math.inf, math.inf)
    random = np.random.default_rng(seed)
    olds, news = (_resampled(times, rank, random) for times in (before, after))
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(news / np.maximum(olds, 1e-9), (tail, 100 - tail))
    return float(new / old), float(low), float(high)


def _resampled(times: Times, rank: int, random: np.random.Generator) -> Times:
    """The percentile of `RESAMPLES` resamples in blocks of consecutive runs, around the end."""
    count = len(times)
    length = math.isqrt(count)
    steps = np.arange(length)
    found = []
    for _ in range(RESAMPLES // CHUNK):
        starts = random.integers(count, size=(CHUNK, -(-count // length)))
        places = (starts[:, :, None] + steps).reshape(CHUNK, -1)[:, :count] % count
        found.append(np.percentile(times[places], rank, axis=1))
    return np.concatenate(found)


def _changes(old: dict[str, Any], new: dict[str, Any], threshold: float) -> list[Change]:
    before, after = old["times"]["stages_ms"], new["times"]["stages_ms"]
    few = min(len(before["total"]), len(after["total"]))
    if few < FEWEST_RUNS:
        raise InputError(f"{new['label']}: {few} runs are too few to tell noise: measure at least {FEWEST_RUNS}")
    wanted = [*DECISIVE, *((stage, 50) for stage in STAGES if stage in before and stage in after)]
    return [_change(stage, rank, before[stage], after[stage], threshold) for stage, rank in wanted]


def _change(stage: str, rank: int, before: list[float], after: list[float], threshold: float) -> Change:
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    ratio, low, high = ratio_interval(old, new, rank)
    if low > 1:
        finding = "slower" if ratio > 1 + threshold else "slower, within the threshold"
    elif high < 1:
        finding = "faster" if ratio < 1 / (1 + threshold) else "faster, within the threshold"
    else:
        finding = "no change beyond noise"
    ends = float(np.percentile(old, rank)), float(np.percentile(new, rank))
    return Change(stage, rank, *ends, ratio, low, high, finding)


def _paired(
    before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], list[str]]:
    if len(before) == len(after) == 1:  # two forms or two versions of a bundle, whatever their names
        return [(before[0], after[0])], []
    olds, news = ({each["label"]: each for each in bundles} for bundles in (before, after))
    pairs = [(olds[label], news[label]) for label in news if label in olds]
    if not pairs:
        raise InputError(f"the records have no bundle in common: {', '.join(olds)}, and {', '.join(news)}")
    return pairs, sorted(olds.keys() ^ news.keys())


def _also(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, tuple[float, float]]]:
    for name, (place, factor) in ALSO.items():
        before, after = _at(old, place), _at(new, place)
        if before is not None and after is not None:
            yield name, (before * factor, after * factor)


def _at(record: dict[str, Any], place: str) -> float | None:
    value: Any = record
    for part in place.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _differences(old: dict[str, Any], new: dict[str, Any], names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        if old.get(name) != new.get(name):
            yield f"{name.replace('_', ' ')}: {old.get(name)}, now {new.get(name)}"
