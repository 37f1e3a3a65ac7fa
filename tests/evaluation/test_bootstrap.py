"""Intervals of AP by drawing images anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask

from rs4d_edge.evaluation.bootstrap import bootstrap_intervals
from rs4d_edge.evaluation.coco import score_results

SIDE = 40


def _rle(left: int) -> dict[str, Any]:
    bits = np.zeros((SIDE, SIDE), np.uint8, order="F")
    bits[5:25, left : left + 15] = 1
    rle: dict[str, Any] = coco_mask.encode(bits)
    return rle


def _truth(images: int) -> dict[str, Any]:
    """One square of 20x15 in each image."""
    return {
        "images": [{"id": 10 * i, "width": SIDE, "height": SIDE, "file_name": f"{i}.png"} for i in range(images)],
        "categories": [{"id": 7, "name": "square"}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 10 * i,
                "category_id": 7,
                "bbox": [5, 5, 15, 20],
                "area": 300,
                "iscrowd": 0,
                "segmentation": _rle(5),
            }
            for i in range(images)
        ],
    }


def _results(found: list[int]) -> list[dict[str, Any]]:
    """The square of the images `found`, exactly."""
    return [
        {"image_id": 10 * i, "category_id": 7, "bbox": [5, 5, 15, 20], "segmentation": _rle(5), "score": 0.9}
        for i in found
    ]


def test_the_interval_holds_the_figure_and_has_about_its_known_width() -> None:
    truth, results = _truth(40), _results(list(range(20)))
    figure = score_results(truth, results)["segm"]["AP"]
    intervals = bootstrap_intervals(truth, results, draws=200)
    for interval in intervals.values():
        assert interval.low < figure < interval.high
        # Half of the images are found, all exactly: AP is the share found, with the binomial's deviation of 0.079.
        assert interval.high - interval.low == pytest.approx(4 * 0.079, rel=0.25)


def test_the_same_seed_gives_the_same_interval_and_more_images_a_narrower_one() -> None:
    few = bootstrap_intervals(_truth(10), _results(list(range(5))), draws=60)
    assert few == bootstrap_intervals(_truth(10), _results(list(range(5))), draws=60)
    assert few != bootstrap_intervals(_truth(10), _results(list(range(5))), draws=60, seed=1)
    many = bootstrap_intervals(_truth(90), _results(list(range(45))), draws=60)
    assert many["segm"].high - many["segm"].low < 0.6 * (few["segm"].high - few["segm"].low)


def test_perfect_and_empty_results_have_no_width() -> None:
    seen: list[int] = []
    perfect = bootstrap_intervals(
        _truth(5), _results(list(range(5))), draws=8, progress=lambda done, total: seen.append(done)
    )
    assert perfect["bbox"].low == pytest.approx(1.0) == perfect["segm"].high
    assert seen == list(range(1, 9))
    assert bootstrap_intervals(_truth(5), [], draws=8)["segm"] == (0.0, 0.0)


def test_an_image_drawn_twice_counts_twice() -> None:
    truth, results = _truth(2), _results([0])
    values = {bootstrap_intervals(truth, results, draws=1, seed=seed)["segm"].low for seed in range(20)}
    assert {round(value, 2) for value in values} == {0.0, 0.5, 1.0}
