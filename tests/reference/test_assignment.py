"""Matching of boxes with objects, and sampling."""

from __future__ import annotations

import torch

from rs4d_edge.reference.assignment import IGNORED, NEGATIVE, match, sample

IOU = torch.tensor(
    [
        [0.80, 0.50, 0.10, 0.00, 0.45],
        [0.75, 0.10, 0.20, 0.29, 0.40],
    ]
)


def test_thresholds() -> None:
    assert match(IOU, 0.7, 0.3, keep_best=False).tolist() == [0, IGNORED, NEGATIVE, NEGATIVE, IGNORED]
    assert match(IOU, 0.5, 0.5, keep_best=False).tolist() == [0, 0, NEGATIVE, NEGATIVE, NEGATIVE]


def test_the_best_boxes_of_an_object_are_kept_for_it() -> None:
    iou = torch.tensor([[0.80, 0.50, 0.10], [0.20, 0.40, 0.40], [0.00, 0.05, 0.29]])
    assert match(iou, 0.7, 0.3, keep_best=True).tolist() == [0, 1, 1]  # the third object is out of reach


def test_without_objects_everything_is_background() -> None:
    assert match(torch.zeros(0, 4), 0.7, 0.3, keep_best=True).tolist() == [NEGATIVE] * 4


def test_negatives_fill_what_positives_leave_free() -> None:
    matched = torch.tensor([0, NEGATIVE, 2, IGNORED, NEGATIVE, NEGATIVE, 1, NEGATIVE])
    positives, negatives = sample(matched, 6, 0.25, torch.Generator().manual_seed(0))
    assert len(positives) == 1
    assert int(matched[positives[0]]) >= 0
    assert sorted(negatives.tolist()) == [1, 4, 5, 7]
    positives, negatives = sample(matched, 4, 0.75, torch.Generator().manual_seed(0))
    assert sorted(positives.tolist()) == [0, 2, 6]
    assert len(negatives) == 1


def test_samples_depend_on_the_generator_alone() -> None:
    matched = torch.arange(200) % 5 - 2
    draws = []
    for seed in (1, 1, 2):
        torch.rand(seed + 3)  # the global generator must not matter
        draws.append(torch.cat(sample(matched, 30, 0.5, torch.Generator().manual_seed(seed))))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
