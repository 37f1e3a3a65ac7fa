"""NMS on CUDA, run on the CPU by cuda_emulation, keeps what the reference keeps, to the box."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rs4d_edge.errors import InputError
from rs4d_edge.native.cuda_selection import MOST_BOXES, NmsArrays, launch_nms, overlap_words
from rs4d_edge.reference.nms import nms_keep_reference
from tests.native.cuda_emulation import Emulation


@pytest.fixture(params=[False, True], ids=["ascending", "descending"])
def cuda(request: pytest.FixtureRequest) -> Iterator[Emulation]:
    emulation = Emulation()
    emulation.reset()
    emulation.run_threads_descending(request.param)
    yield emulation
    emulation.reset()


def crowd(seed: int, groups: int, count: int) -> tuple[Tensor, Tensor]:
    """Boxes (G, N, 4) on whole pixels, so that overlaps repeat, some without area, and scores (G, N) with many ties."""
    random = torch.Generator().manual_seed(seed)
    side = 2.0 * count**0.5 + 8.0
    corner = (torch.rand(groups, count, 2, generator=random) * side).floor()
    size = torch.randint(0, 16, (groups, count, 2), generator=random)
    scores = torch.randint(-2, 20, (groups, count), generator=random).float() / 20
    return torch.cat((corner, corner + size), dim=2), scores


def kept_by(cuda: Emulation, boxes: Tensor, scores: Tensor, iou: float, score: float, most: int) -> Tensor:
    """Whatever workspace and answer hold before."""
    groups, count = scores.shape
    most_kept, thresholds = torch.tensor([most], dtype=torch.int32), torch.tensor([iou, score])
    answers = []
    for fill in (0, -1):
        keep = torch.full((groups, count), 77, dtype=torch.int32)
        overlaps = torch.full((overlap_words(groups, count),), fill, dtype=torch.int32)
        given = [boxes.data_ptr(), scores.data_ptr(), most_kept.data_ptr()]
        given += [thresholds[0:].data_ptr(), thresholds[1:].data_ptr(), keep.data_ptr(), overlaps.data_ptr()]
        launch_nms(cuda.scan.kernels, groups, count, NmsArrays(*given))
        assert {int(each) for each in keep.flatten()} <= {0, 1}
        answers.append(keep.bool())
    assert torch.equal(*answers)
    return answers[0]


@pytest.mark.parametrize(("groups", "count"), [(1, 1), (3, 31), (2, 33), (2, 64), (1, 300)])
@pytest.mark.parametrize("most", [3, 1000])
def test_what_is_kept_is_what_the_reference_keeps(cuda: Emulation, groups: int, count: int, most: int) -> None:
    boxes, scores = crowd(count, groups, count)
    found = kept_by(cuda, boxes, scores, 0.3, 0.05, most)
    expected = nms_keep_reference(boxes, scores, 0.3, 0.05, most)
    assert torch.equal(found, expected)
    if count > 1:
        assert expected.any(dim=1).all() and not expected.all()
        assert (expected.sum(dim=1) == 3).all() == (most == 3)


def test_a_chain_is_followed_to_its_end(cuda: Emulation) -> None:
    """Each box overlaps its neighbours alone: every second one survives, found one after another."""
    left = torch.arange(70.0) * 4
    boxes = torch.stack((left, torch.zeros(70), left + 8, torch.full((70,), 10.0)), dim=1)[None]
    scores = torch.linspace(0.9, 0.1, 70)[None]
    assert kept_by(cuda, boxes, scores, 0.3, 0.0, 70)[0].tolist() == [True, False] * 35
    assert kept_by(cuda, boxes, scores, 0.3, 0.0, 4)[0].nonzero()[:, 0].tolist() == [0, 2, 4, 6]


def test_equal_boxes_and_thresholds_are_strict(cuda: Emulation) -> None:
    """The first of equal boxes survives; an IoU or a score that equals its threshold does nothing."""
    boxes = torch.tensor([[[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0]]])
    boxes = torch.cat((boxes, boxes[:, 3:]), dim=1)  # two boxes without area in one place: no overlap
    scores = torch.tensor([[0.5, 0.5, 0.4, 0.3, 0.3]])
    assert kept_by(cuda, boxes, scores, 0.5, 0.2, 9)[0].tolist() == [True, False, True, True, True]
    assert kept_by(cuda, boxes, scores, 0.49, 0.3, 9)[0].tolist() == [True, False, False, False, False]
    assert not kept_by(cuda, boxes, scores, 0.5, 0.5, 9).any() and not kept_by(cuda, boxes, scores, 0.5, 0.2, 0).any()


def test_scores_that_are_no_numbers_take_no_part(cuda: Emulation) -> None:
    boxes, scores = crowd(5, 1, 40)
    scores[0, ::3] = torch.nan
    found = kept_by(cuda, boxes, scores, 0.3, 0.05, 40)
    without = torch.where(scores.isnan(), -1.0, scores)
    assert torch.equal(found, nms_keep_reference(boxes, without, 0.3, 0.05, 40))


@pytest.mark.parametrize(("groups", "count"), [(1, MOST_BOXES + 1), (1, 0), (65536, 1)])
def test_what_does_not_fit_is_refused(groups: int, count: int) -> None:
    with pytest.raises(InputError, match=rf"{groups} groups of {count} boxes, compiled for 1 to 4096"):
        launch_nms(Emulation().scan.kernels, groups, count, NmsArrays(*[0] * 7))
