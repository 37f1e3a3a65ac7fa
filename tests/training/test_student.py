"""The student speaks in the teacher's widths on its own grid; the losses are what they say."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.training.distill_settings import LossWeights
from rs4d_edge.training.student import (
    Student,
    constant_l1,
    distillation_losses,
    embedding_cosine,
    embedding_l1,
    resample,
)
from tests.training.tiny_distillation import EDGE_STUDENT, PAPER_STUDENT

ALL = torch.ones(2, 4, 4, dtype=torch.bool)


def test_equal_widths_need_no_projection() -> None:
    encoder = RSMamba(PAPER_STUDENT)
    student = Student(encoder, 16, (), 0)
    assert isinstance(student.projection, nn.Identity)
    assert {name.split(".")[0] for name, _ in student.named_parameters()} == {"encoder"}
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(student(image)[0], encoder(image).layers[-1].permute(0, 3, 1, 2))


def test_other_widths_and_layers_get_projections_of_their_own() -> None:
    student = Student(RSMamba(EDGE_STUDENT), 24, (0,), 10)
    maps = student(torch.randn(2, 3, 64, 96))
    assert [tuple(each.shape) for each in maps] == [(2, 24, 4, 6), (2, 10, 4, 6)]
    outside = {name for name, _ in student.named_parameters() if not name.startswith("encoder.")}
    assert outside == {
        f"{name}.{kind}" for name in ("projection", "layer_projections.0") for kind in ("weight", "bias")
    }


def test_a_map_on_the_student_s_grid_stays_and_another_keeps_its_places() -> None:
    ramp = torch.arange(64, dtype=torch.float32).view(1, 1, 1, 64).expand(1, 1, 64, 64) + 0.5
    same, smaller = resample((ramp,), (64, 64))[0], resample((ramp.half(),), (40, 40))[0]
    assert torch.equal(same, ramp)
    assert smaller.dtype == torch.float32
    inner = slice(2, -2)  # at the border the filter has one side alone
    expected = (torch.arange(40) + 0.5) * 64 / 40
    assert torch.allclose(smaller[0, 0, 5, inner], expected[inner], atol=0.1)  # a tenth of a cell


def test_every_cell_of_the_teacher_counts_in_a_smaller_map() -> None:
    for column in range(64):
        teacher = torch.zeros(1, 1, 64, 64)
        teacher[..., column] = 1.0
        assert float(resample((teacher,), (40, 40))[0].sum()) > 0.5 * 40


def test_padding_and_batch_cuts_do_not_change_a_picture_s_loss() -> None:
    student, teacher = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4)
    cells = ALL.clone()
    cells[0, 2:] = False
    for measure in (embedding_l1, embedding_cosine):
        whole = measure(student, teacher, cells)
        changed = student.clone()
        changed[0, :, 2:] += 100.0
        assert torch.equal(measure(changed, teacher, cells), whole)
        assert torch.allclose(measure(student[1:], teacher[1:], cells[1:]), whole[1:])
    assert float(embedding_l1(student, teacher, cells)[0]) == pytest.approx(
        float((student[0, :, :2] - teacher[0, :, :2]).abs().mean()), rel=1e-5
    )


def test_the_losses_have_known_values() -> None:
    teacher = torch.randn(2, 5, 4, 4)
    assert embedding_l1(teacher + 0.5, teacher, ALL).tolist() == pytest.approx([0.5, 0.5], rel=1e-4)
    assert embedding_cosine(3 * teacher, teacher, ALL).abs().max() < 1e-5
    assert embedding_cosine(-teacher, teacher, ALL).tolist() == pytest.approx([2.0, 2.0])
    flat = teacher.mean((2, 3), keepdim=True).expand_as(teacher)
    assert constant_l1(teacher, ALL).tolist() == pytest.approx(embedding_l1(flat, teacher, ALL).tolist())
    assert float(constant_l1(flat, ALL).max()) < 1e-6


def test_the_parts_follow_their_weights() -> None:
    teacher = (torch.randn(2, 5, 4, 4), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4))
    student = tuple(each + 0.5 for each in teacher)
    alone = distillation_losses(student[:1], teacher[:1], ALL, LossWeights())
    assert list(alone) == ["l1"]
    weights = LossWeights(l1=2.0, cosine=0.5, layers=3.0, layer_maps=2)
    parts = distillation_losses(student, teacher, ALL, weights)
    assert float(parts["l1"]) == pytest.approx(1.0, rel=1e-4)
    assert float(parts["layers"]) == pytest.approx(1.5, rel=1e-4)
    assert float(parts["cosine"]) == pytest.approx(0.5 * float(embedding_cosine(student[0], teacher[0], ALL).mean()))


def test_weights_that_teach_nothing_are_refused() -> None:
    for values in ({"l1": 0.0}, {"layers": 1.0}, {"layer_maps": 2}):
        with pytest.raises(ValidationError):
            LossWeights.model_validate(values)
