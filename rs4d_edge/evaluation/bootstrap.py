"""How sure an average precision is: its spread if other images of the same kind had been measured.

Source: Efron, "Bootstrap methods: another look at the jackknife", 1979. Images are drawn with replacement, because the
objects of one image are not independent, and COCO's measure is taken anew of each draw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rs4d_edge.evaluation.coco import KINDS, score_kind


class Interval(NamedTuple):
    """The central 95 % of the draws."""

    low: float
    high: float


def bootstrap_intervals(
    truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    *,
    draws: int = 100,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Interval]:
    """95 % intervals of AP by kind (`bbox`, `segm`), of COCO results (RLE masks) against COCO ground truth.

    Deterministic from `seed`. `progress(done, draws)` is called after each draw. A draw without any object counts as
    nothing; without a single one that has some the interval is (0, 0).
    """
    images = [int(image["id"]) for image in truth["images"]]
    objects, found = _by_image(truth["annotations"]), _by_image(results)
    rng = np.random.default_rng(seed)
    scores: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for draw in range(draws):
        drawn = [images[place] for place in rng.integers(len(images), size=len(images))]
        sample = {**truth, "images": _renumbered(truth, drawn), "annotations": _copies(objects, drawn, first_id=1)}
        entries = _copies(found, drawn, first_id=1)
        for kind in KINDS:
            score = score_kind(sample, entries, kind)["AP"] if entries and sample["annotations"] else None
            if score is not None:
                scores[kind].append(score)
        if progress is not None:
            progress(draw + 1, draws)
    return {kind: _central(np.asarray(values)) for kind, values in scores.items()}


def _by_image(entries: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    grouped: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        grouped[int(entry["image_id"])].append(entry)
    return grouped


def _renumbered(truth: dict[str, Any], drawn: Sequence[int]) -> list[dict[str, Any]]:
    """The drawn images; one that was drawn twice is two images."""
    known = {int(image["id"]): image for image in truth["images"]}
    return [{**known[image], "id": place} for place, image in enumerate(drawn)]


def _copies(groups: dict[int, list[dict[str, Any]]], drawn: Sequence[int], first_id: int) -> list[dict[str, Any]]:
    entries = [{**entry, "image_id": place} for place, image in enumerate(drawn) for entry in groups.get(image, ())]
    return [{**entry, "id": number} for number, entry in enumerate(entries, start=first_id)]


def _central(values: NDArray[np.float64]) -> Interval:
    if not values.size:
        return Interval(0.0, 0.0)
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))
