"""Batch norm over the images of all processes, on any device.

With one process's images alone, the statistics, and so the weights learnt, would change with the number of processes.
torch has such a layer for GPUs only; this one also runs on CPUs, where the tests compare two processes with one.
"""

from __future__ import annotations

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
    """`BatchNorm2d` whose training statistics are those of all processes' images together; the same state."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) to the same; every process must bring as many values as the others."""
        if not self.training or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return super().forward(x)
        values = x.float()
        mean = _mean_over_processes(values.mean((0, 2, 3)))
        centred = values - mean[:, None, None]
        variance = _mean_over_processes(centred.square().mean((0, 2, 3)))
        self._track(mean.detach(), variance.detach(), x.numel() // x.shape[1] * distributed.get_world_size())
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running statistics as `BatchNorm2d` does: the variance without bias."""
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1


def _mean_over_processes(values: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(values)  # type: ignore[no-untyped-call]
    return total / distributed.get_world_size()


def share_batch_norms(model: nn.Module) -> nn.Module:
    """Turns every `BatchNorm2d` of the model into a shared one, in place; parameters stay the same objects."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
    return model
