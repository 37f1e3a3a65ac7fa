"""Which classes a detector takes for which others: a confusion matrix over matched boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_geometry
from numpy.typing import NDArray

SCORE_THRESHOLD = 0.3
IOU_THRESHOLD = 0.5


def confusion_matrix(truth: dict[str, Any], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of COCO results against COCO ground truth: `classes`, `matrix`, `score_threshold`, `iou_threshold`.

    `matrix` is (n + 1, n + 1) for n classes in the order of their category ids. Row t, column p: objects of class t
    that were found as class p. The last column counts the objects that were missed, the last row (background) the
    false alarms by the class that they claim; the last place of both is 0, as nothing counts the true background.
    So a row of a class sums to its objects, and a column to the detections of that class.

    Results with a score of at least 0.3 take part: what a user would see, while AP looks at all scores (a model whose
    own threshold is higher gave no others). They are matched by their boxes with an IoU of at least 0.5, whatever the
    class, or no confusion would be seen. Boxes and not masks, because the question is what an object was taken for; how
    well its mask fits is told by mask AP, and a poor mask would look here like a miss and a false alarm at once. The
    best score chooses first and takes the object with the highest IoU among those that are left, so each object counts
    once: a second box on it is a false alarm, be it of the same class or of another.

    Crowd regions are no objects to find. A detection that is left over and lies with half of its area in one is not
    counted, as COCO's own measure does.
    """
    categories = sorted(truth["categories"], key=lambda category: int(category["id"]))
    label_of = {int(category["id"]): label for label, category in enumerate(categories)}
    objects = _by_image(truth["annotations"])
    found = _by_image(result for result in results if result["score"] >= SCORE_THRESHOLD)
    background = len(categories)
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    for image_id in objects.keys() | found.keys():
        solid = [each for each in objects[image_id] if not each.get("iscrowd")]
        crowds = [each for each in objects[image_id] if each.get("iscrowd")]
        ranked = sorted(found[image_id], key=lambda result: -float(result["score"]))  # stable, as COCO sorts
        rows = [label_of[int(each["category_id"])] for each in solid] + [background]
        columns = [label_of[int(each["category_id"])] for each in ranked]
        matches = _match(_overlaps(ranked, solid, crowd=False))
        in_crowd = _overlaps(ranked, crowds, crowd=True).max(axis=1, initial=0.0) >= IOU_THRESHOLD
        for column, match, ignored in zip(columns, matches, in_crowd, strict=True):
            if match >= 0 or not ignored:
                matrix[rows[match], column] += 1
        for missed in set(range(len(solid))) - set(matches):
            matrix[rows[missed], background] += 1
    return {
        "classes": [str(category["name"]) for category in categories],
        "matrix": matrix.tolist(),
        "score_threshold": SCORE_THRESHOLD,
        "iou_threshold": IOU_THRESHOLD,
    }


def _by_image(entries: Any) -> defaultdict[int, list[dict[str, Any]]]:
    groups: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        groups[int(entry["image_id"])].append(entry)
    return groups


def _overlaps(ranked: list[dict[str, Any]], objects: list[dict[str, Any]], *, crowd: bool) -> NDArray[np.float64]:
    """IoU (results, objects) of xywh boxes; with `crowd` the share of each result's own area, as COCO has it."""
    if not ranked or not objects:
        return np.zeros((len(ranked), len(objects)))
    boxes = [np.array([each["bbox"] for each in group], dtype=np.float64) for group in (ranked, objects)]
    return np.asarray(coco_geometry.iou(boxes[0], boxes[1], [int(crowd)] * len(objects)), dtype=np.float64)


def _match(overlaps: NDArray[np.float64]) -> list[int]:
    """The object of each result, best score first; -1, the place of the background, for none."""
    left = overlaps.copy()
    matches = []
    for row in left:
        best = int(row.argmax()) if row.size else -1
        if best >= 0 and row[best] >= IOU_THRESHOLD:
            matches.append(best)
            left[:, best] = -1.0
        else:
            matches.append(-1)
    return matches
