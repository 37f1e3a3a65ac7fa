"""Batch norms that serve distillation: shared by all processes, and told apart for clean and corrupted pictures.

A student trained on corrupted pictures keeps their statistics, by which clean ones are normalised wrongly: measured on
aerial pictures, a student had learnt 0.12 of its teacher by them and 0.19 by those of clean pictures. So probes take
the statistics of the very pictures that they show, and before a student is measured or saved its statistics are taken
anew, from clean pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce whose gradient is the all-reduced gradient: what one process adds reaches the loss of every one."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        distributed.all_reduce(total)
        return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` whose training statistics are those of all processes' images together; the same state.

    With one process's images alone, the weights learnt would change with the number of processes. torch has such a
    layer for GPUs only; this one also runs on CPUs, where the tests compare two processes with one.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) to the same; every process must bring as many values as the others."""
        if not self.training or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return super().forward(x)
        values = x.float()
        mean = _mean_over_processes(values.mean((0, 2, 3)))
        centred = values - mean[:, None, None]
        variance = _mean_over_processes(centred.square().mean((0, 2, 3)))
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), x.numel() // x.shape[1] * distributed.get_world_size())
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running statistics as `BatchNorm2d` does: the variance without bias, no momentum a plain mean."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), share)


def _mean_over_processes(values: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(values)  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()


def share_batch_norms(model: nn.Module) -> nn.Module:
    """Turns every `BatchNorm2d` of the model into a shared one, in place; parameters stay the same objects."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
    return model


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """The model's batch norms; the paper's encoders have none."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@contextmanager
def own_statistics(model: nn.Module) -> Iterator[None]:
    """Within it, batch norms use the statistics of the batch that they see and keep nothing of it."""
    norms = batch_norms(model)
    modes = [norm.training for norm in norms]
    for norm in norms:
        norm.train()
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, mode in zip(norms, modes, strict=True):
            norm.train(mode)
            norm.track_running_stats = True


@torch.no_grad()
def take_statistics(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Replaces the running statistics by plain means over the images; leaves the model in evaluation mode.

    `images` are batches (B, 3, S, S) as the model takes them; they are not asked for where there is no batch norm.
    """
    norms = batch_norms(model)
    model.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None
    for image in images:
        model(image)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
