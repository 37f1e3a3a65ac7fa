"""Batch norms of clean and of corrupted pictures stay apart. Sharing is compared in test_distill_processes."""

from __future__ import annotations

import torch
from torch import nn

from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.training.batch_norms import (
    SharedBatchNorm2d,
    batch_norms,
    own_statistics,
    share_batch_norms,
    take_statistics,
)
from tests.training.tiny_distillation import EDGE_STUDENT, PAPER_STUDENT


def statistics(model: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for norm in batch_norms(model) for value in norm.state_dict().values()]


def test_own_statistics_are_those_of_the_batch_and_leave_no_trace() -> None:
    norm = nn.BatchNorm2d(3)
    before = statistics(norm)
    x = 5 + 2 * torch.randn(4, 3, 8, 8)
    norm.eval()
    with own_statistics(norm):
        y = norm(x).detach()
    assert float(y.mean().abs()) < 1e-4
    assert abs(float(y.std()) - 1) < 0.01
    assert not norm.training
    assert all(torch.equal(one, other) for one, other in zip(statistics(norm), before, strict=True))
    norm.train()(x)
    assert not torch.equal(norm.running_mean, before[2])  # type: ignore[arg-type]


def test_taken_statistics_are_the_means_over_the_images_alone() -> None:
    norm = nn.BatchNorm2d(3).train()
    norm(100 + torch.randn(4, 3, 8, 8))  # corrupted ones, to be forgotten
    images = [torch.randn(4, 3, 8, 8) + k for k in range(3)]
    take_statistics(norm, images)
    assert not norm.training
    assert norm.momentum == 0.1
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, torch.stack([i.mean((0, 2, 3)) for i in images]).mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, torch.stack([i.var((0, 2, 3)) for i in images]).mean(0), atol=1e-5)


def test_an_encoder_without_batch_norms_asks_for_no_image() -> None:
    images = iter([torch.zeros(1, 3, 64, 64)])
    assert batch_norms(RSMamba(PAPER_STUDENT)) == []
    take_statistics(RSMamba(PAPER_STUDENT), images)
    assert len(list(images)) == 1


def test_a_shared_norm_alone_is_a_batch_norm() -> None:
    torch.manual_seed(0)
    plain = RSMamba(EDGE_STUDENT)
    shared = RSMamba(EDGE_STUDENT)
    shared.load_state_dict(plain.state_dict())
    parameters = [id(parameter) for parameter in shared.parameters()]
    share_batch_norms(shared)
    assert all(isinstance(norm, SharedBatchNorm2d) for norm in batch_norms(shared))
    assert [id(parameter) for parameter in shared.parameters()] == parameters
    image = torch.randn(2, 3, 64, 64)
    for mode in (True, False):
        assert torch.equal(plain.train(mode)(image).layers[-1], shared.train(mode)(image).layers[-1])
    assert all(torch.equal(a, b) for a, b in zip(statistics(plain), statistics(shared), strict=True))
