"""AdamW with its parameter groups, the learning rate's course, and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

# The scan's own parameters and the position embedding are scales and offsets, not maps: decay would pull the state's
# time constants to one value (Mamba's published recipe exempts them too).
UNDECAYED_NAMES = frozenset({"A_log", "D", "pos_embed"})


class OptimizerSettings(Protocol):
    """What the settings of any kind of run say about its optimiser."""

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        ...

    @property
    def final_lr_ratio(self) -> float:
        """Learning rate at the end, as a share of the peak."""
        ...

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up."""
        ...

    @property
    def weight_decay(self) -> float:
        """AdamW's weight decay."""
        ...


def build_optimizer(
    model: nn.Module, settings: OptimizerSettings, scales: Mapping[nn.Parameter, float] | None = None
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; norms, biases, `A_log`, `D` and `pos_embed` are not decayed.

    `scales` are shares of the learning rate, 1 for parameters that it does not name; a group keeps its own as
    `rate_scale`, by which the caller multiplies the rate of each step.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim < 2 or name.rpartition(".")[2] in UNDECAYED_NAMES
        scale = 1.0 if scales is None else scales.get(parameter, 1.0)
        groups.setdefault((scale, 0.0 if plain else settings.weight_decay), []).append(parameter)
    # The largest rate first, and in it what decays: without scales these are the two groups there have always been.
    ordered = sorted(groups.items(), key=lambda item: (-item[0][0], -item[0][1]))
    rows = [
        {"params": own, "weight_decay": decay, "rate_scale": scale, "lr": settings.lr * scale}
        for (scale, decay), own in ordered
    ]
    return torch.optim.AdamW(rows, lr=settings.lr, betas=(0.9, 0.999), fused=True)


def learning_rate(settings: OptimizerSettings, step: int, progress: float) -> float:
    """Linear warm-up by steps, then half a cosine down to `final_lr_ratio` by progress (0..1)."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return settings.lr * (settings.final_lr_ratio + (1 - settings.final_lr_ratio) * cosine)


class WeightAverage:
    """Exponential moving average of a model's floating-point state, batch-norm statistics included.

    The decay starts low, min(decay, (1 + n) / (10 + n)) after n updates, so that early evaluations mean something.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._live = dict(model.state_dict(keep_vars=True))
        self.state: dict[str, Tensor] = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the model's present state; counters are copied."""
        self.updates += 1
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, lives = [], []
        for name, live in self._live.items():
            if live.is_floating_point():
                averages.append(self.state[name])
                lives.append(live.detach())
            else:
                self.state[name].copy_(live)
        torch._foreach_lerp_(averages, lives, share)

    def load(self, state: dict[str, Tensor], updates: int) -> None:
        """Continues an earlier average."""
        self.updates = updates
        for name, value in self.state.items():
            value.copy_(state[name])
