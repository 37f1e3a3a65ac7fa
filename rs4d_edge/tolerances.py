"""The limits of the parity gate, which a bundle carries so that a device can judge by them again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Tolerances(BaseModel):
    """Limits of the parity gate.

    `tensor`: largest difference of a tensor ahead of the first selection (encoder, neck, RPN maps), relative to the
    largest magnitude in it. `score` and `box_px`: of a matched detection; the latter in pixels of the network's input.
    `match_iou`: least overlap of boxes of the same class that counts as a match. `mask_iou`: least overlap of the
    masks of a match; `mask_px`: but so many differing pixels are always allowed, as the smallest masks have ten.
    `cut_margin`: a detection without partner is excused if its score is so near to the score at which the list is cut.
    `unmatched`: share of all other detections that may be without partner. `moved_pairs`: share of the
    matches that may miss the limits above. `moved_rows`: share of rows behind the first selection that may differ
    before --bisect calls it a departure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensor: float
    score: float
    box_px: float
    match_iou: float
    mask_iou: float
    mask_px: int
    cut_margin: float
    unmatched: float
    moved_rows: float
    moved_pairs: float = 0.0
