"""How far an export may be from the reference, for each precision, and why."""

from __future__ import annotations

from rs4d_edge.export.recipes import Precision
from rs4d_edge.tolerances import Tolerances

TOLERANCES = {
    # The same arithmetic in another order. One fp32 rounding is 6e-8; some hundred layers of sums add up to 1e-6..1e-5,
    # and an error in the model (a wrong axis, constant or rounding mode) starts at 1e-3. Boxes pass through an exp of
    # deltas and are up to a thousand pixels wide.
    Precision.FP32: Tolerances(
        tensor=1e-4,
        score=1e-3,
        box_px=0.5,
        match_iou=0.9,
        mask_iou=0.95,
        mask_px=4,
        cut_margin=1e-3,
        unmatched=0.0,
        moved_rows=0.1,
    ),
    # One bf16 rounding is 4e-3, and each layer rounds its activations anew: 1e-2 after the edge models, several times
    # as much after tens of layers. Scores of proposals move by hundredths, so their order changes throughout (the rows
    # are not judged), and with it which of several nearly equal boxes survives: each is as good as the other, so a
    # small share may stay without partner.
    Precision.BF16: Tolerances(
        tensor=0.1,
        score=0.1,
        box_px=8.0,
        match_iou=0.75,
        mask_iou=0.7,
        mask_px=12,
        cut_margin=0.1,
        unmatched=0.1,
        moved_rows=1.0,
    ),
    # One fp16 rounding is 5e-4. With weights rounded alone, as CPUs compute, 1.8e-3 of the largest value was seen after
    # the nano's layers; with every activation rounded, too, as a GPU does it, 1.8e-3 there and 2.2e-3 after the small
    # one's: four times as much is left for tens of layers. Scores moved by 1e-3, boxes by 0.04 px, masks not below an
    # IoU of 0.98. A proposal that moves up or down at a cut makes another of two nearly equal boxes survive, seldom.
    Precision.FP16: Tolerances(
        tensor=0.01,
        score=0.01,
        box_px=1.0,
        match_iou=0.9,
        mask_iou=0.9,
        mask_px=6,
        cut_margin=0.01,
        unmatched=0.02,
        moved_rows=1.0,
    ),
    # One rounding to 8 bits is 4e-3 of the tensor's largest value, for weights and inputs of every layer, and what is
    # clipped adds to it: 0.05 to 0.2 of the largest value was seen on trained models, 1 and more where a scale, a sign
    # or a channel is wrong. Candidates' scores move by hundredths, so in crowds another of several overlapping boxes
    # survives: not nearly equal ones, as in bf16, so that a small share of the pairs may be further apart than the
    # limits. Whether accuracy is kept is measured on annotated data, not here.
    Precision.INT8: Tolerances(
        tensor=0.4,
        score=0.2,
        box_px=16.0,
        match_iou=0.6,
        mask_iou=0.6,
        mask_px=20,
        cut_margin=0.1,
        unmatched=0.1,
        moved_rows=1.0,
        moved_pairs=0.1,
    ),
}
# The rest in bf16 or fp16 rounds no coarser than int8 does: each of int8's limits is wider than theirs.
TOLERANCES[Precision.INT8_BF16] = TOLERANCES[Precision.INT8_FP16] = TOLERANCES[Precision.INT8]
