from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rs4d_edge.evaluation.confusion import IOU_THRESHOLD, SCORE_THRESHOLD, confusion_matrix

SHIP, BRIDGE, TANK = 7, 3, 5  # ids: by them the order is bridge, tank, ship
CATEGORIES = [{"id": SHIP, "name": "ship"}, {"id": BRIDGE, "name": "bridge"}, {"id": TANK, "name": "tank"}]
Box = tuple[float, float, float, float]


def thing(category: int, box: Box, image: int = 1, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), **more}


def counts(objects: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[list[int]]:
    matrix: list[list[int]] = confusion_matrix({"categories": CATEGORIES, "annotations": objects}, found)["matrix"]
    return matrix


def test_a_scene_counted_by_hand() -> None:
    objects = [
        thing(SHIP, (0, 0, 10, 10)),  # found, and found again as a tank
        thing(SHIP, (20, 0, 10, 10)),  # taken for a bridge
        thing(TANK, (40, 0, 10, 10)),  # with a score too low to count
        thing(TANK, (60, 0, 10, 10)),  # by a box that is off by half
        thing(BRIDGE, (0, 0, 10, 10), image=2),  # where the first image has its ship
        thing(BRIDGE, (0, 50, 30, 30), image=2, iscrowd=1),
    ]
    found = [
        thing(SHIP, (0, 0, 10, 9), score=0.9),
        thing(TANK, (0, 0, 10, 10), score=0.8),
        thing(BRIDGE, (21, 0, 10, 10), score=0.7),
        thing(TANK, (40, 0, 10, 10), score=0.29),
        thing(TANK, (65, 0, 10, 10), score=0.6),
        thing(BRIDGE, (0, 0, 10, 10), image=2, score=0.3),
        thing(BRIDGE, (5, 55, 10, 10), image=2, score=0.9),  # inside the crowd
        thing(SHIP, (25, 55, 20, 10), image=2, score=0.9),  # a quarter of it inside the crowd
        thing(SHIP, (0, 0, 10, 10), image=3, score=0.5),  # an image without objects
    ]
    result = confusion_matrix({"categories": CATEGORIES, "annotations": objects}, found)
    assert result == {
        "classes": ["bridge", "tank", "ship"],
        "matrix": [
            # bridge, tank, ship, missed
            [1, 0, 0, 0],
            [0, 0, 0, 2],
            [1, 0, 1, 0],
            [0, 2, 2, 0],
        ],
        "score_threshold": SCORE_THRESHOLD,
        "iou_threshold": IOU_THRESHOLD,
    }
    assert json.loads(json.dumps(result)) == result


def test_the_best_score_chooses_first_and_takes_the_closest() -> None:
    """The tank's box fits the ship best, but the bridge's comes first; what is left for the tank is the second ship."""
    objects = [thing(SHIP, (0, 0, 10, 10)), thing(SHIP, (3, 0, 10, 10))]
    found = [thing(TANK, (0, 0, 10, 10), score=0.5), thing(BRIDGE, (1, 0, 10, 10), score=0.6)]
    assert counts(objects, found)[2] == [1, 1, 0, 0]
    assert counts(objects[:1], found) == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]


def test_of_equal_scores_the_first_chooses() -> None:
    objects = [thing(SHIP, (0, 0, 10, 10))]
    found = [thing(SHIP, (0, 0, 10, 10), score=0.5), thing(TANK, (0, 0, 10, 10), score=0.5)]
    assert counts(objects, found)[2] == [0, 0, 1, 0]
    assert counts(objects, found[::-1])[2] == [0, 1, 0, 0]


@pytest.mark.parametrize(("height", "expected"), [(5.0, [0, 0, 1, 0]), (4.99, [0, 0, 0, 1])])
def test_an_overlap_of_exactly_a_half_is_enough(height: float, expected: list[int]) -> None:
    assert counts([thing(SHIP, (0, 0, 10, 10))], [thing(SHIP, (0, 0, 10, height), score=1.0)])[2] == expected


def test_an_object_in_a_crowd_is_still_found() -> None:
    objects = [thing(SHIP, (0, 0, 100, 100), iscrowd=1), thing(TANK, (0, 0, 10, 10))]
    assert counts(objects, [thing(TANK, (0, 0, 10, 10), score=0.9)])[1] == [0, 1, 0, 0]


def test_nothing_found_is_all_missed() -> None:
    assert counts([thing(SHIP, (0, 0, 10, 10)), thing(TANK, (0, 0, 10, 10))], []) == [
        [0, 0, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 0, 1],
        [0, 0, 0, 0],
    ]


def plain_iou(first: list[float], second: list[float]) -> float:
    sides = [
        max(min(first[axis] + first[axis + 2], second[axis] + second[axis + 2]) - max(first[axis], second[axis]), 0.0)
        for axis in (0, 1)
    ]
    shared = sides[0] * sides[1]
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


@pytest.mark.parametrize("seed", range(5))
def test_crowded_scenes_agree_with_a_search_over_all_pairs(seed: int) -> None:
    """Greedy by score, written as a search; and all objects and detections are counted once."""
    rng = np.random.default_rng(seed)

    def things(number: int) -> list[dict[str, Any]]:
        boxes = np.concatenate([rng.uniform(0, 30, (number, 2)), rng.uniform(6, 12, (number, 2))], axis=1)
        ids = rng.choice([SHIP, BRIDGE, TANK], number)
        return [thing(int(each), tuple(box), score=float(rng.uniform())) for each, box in zip(ids, boxes, strict=True)]

    objects, found = things(25), things(60)
    order = {BRIDGE: 0, TANK: 1, SHIP: 2}
    expected = np.zeros((4, 4), dtype=int)
    free = list(objects)
    taking_part = sorted((each for each in found if each["score"] >= 0.3), key=lambda each: -float(each["score"]))
    for each in taking_part:
        best = max(free, key=lambda other: plain_iou(each["bbox"], other["bbox"]))
        if plain_iou(each["bbox"], best["bbox"]) >= 0.5:
            free.remove(best)
            expected[order[best["category_id"]], order[each["category_id"]]] += 1
        else:
            expected[3, order[each["category_id"]]] += 1
    for other in free:
        expected[order[other["category_id"]], 3] += 1
    matrix = np.array(counts(objects, found))
    assert matrix.tolist() == expected.tolist()
    assert (matrix[:3].sum(), matrix[:, :3].sum()) == (len(objects), len(taking_part))
    assert matrix[:3, :3].sum() > 5
