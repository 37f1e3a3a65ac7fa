"""Rounding tensors and weights in training as the exported int8 graph rounds them, to ranges that are measured first.

The number formats are those of `rs4d_edge.calibration.qdq`: weights int8 with a scale for each output channel, 127
steps on each side; tensors int8 with one scale, or uint8 where they are never negative. Gradients pass the rounding as
if it were not there, and stop where a value is cut (straight-through estimator: Bengio et al., arXiv 1308.3432).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rs4d_edge.calibration.trained_ranges import Ranges, TrainedRange
from rs4d_edge.errors import RS4DError

_STEPS = 127
_SMALLEST = 1e-8  # of a largest value, so that dead tensors and channels get a scale, too


class _Seen(NamedTuple):
    runs: int
    largest: float  # the sum over the runs
    negative: bool


class RoundedTensors:
    """What all rounded layers of a model, and of copies of it, share: the range of each tensor, by its key.

    Between `observe()` and `settle()` nothing is rounded, and the values that pass are noted.
    """

    def __init__(self) -> None:
        self.ranges: Ranges = {}
        self._seen: dict[str, _Seen] | None = None

    @property
    def observing(self) -> bool:
        """Whether values are noted instead of rounded."""
        return self._seen is not None

    def observe(self) -> None:
        """Begin to note values."""
        self._seen = {}

    def settle(self) -> None:
        """Take as ranges what was seen: the mean over runs of each run's largest magnitude, as calibration does."""
        seen, self._seen = self._seen or {}, None
        self.ranges = {key: TrainedRange(each.largest / each.runs, each.negative) for key, each in seen.items()}

    def pass_through(self, key: str, x: Tensor) -> Tensor:
        """The tensor rounded to its range; itself, noted, while observing. RS4DError for one without a range."""
        if self._seen is not None:
            before = self._seen.get(key, _Seen(0, 0.0, False))
            largest, negative = float(x.abs().max()), bool((x < 0).any())
            self._seen[key] = _Seen(before.runs + 1, before.largest + largest, before.negative or negative)
            return x
        if key not in self.ranges:
            raise RS4DError(f"the tensor {key!r} is rounded but its range was not measured; begin the run anew")
        return round_tensor(x, self.ranges[key])


class Rounder:
    """Rounds one tensor for each call of its layer, which may read several levels one after the other."""

    def __init__(self, tensors: RoundedTensors, name: str, first: int, suffix: str = "") -> None:
        """`first`: number of the layer's first call among those of its name."""
        self.tensors = tensors
        self._name, self._first, self._suffix = name, first, suffix
        self._call = 0

    def restart(self) -> None:
        """A new pass through the model begins."""
        self._call = 0

    def __call__(self, x: Tensor) -> Tensor:
        """The tensor of the next call."""
        key = f"{self._name}/{self._first + self._call}{self._suffix}"
        self._call += 1
        return self.tensors.pass_through(key, x)

    def hook(self, module: nn.Module, inputs: Any, result: Tensor) -> Tensor:
        """Rounds a module's result, as a forward hook."""
        return self(result)


def round_tensor(x: Tensor, held: TrainedRange) -> Tensor:
    """The nearest steps in fp32; a tensor that is never negative has 255 of them up to its largest value, else 127."""
    low, high, steps = (-_STEPS - 1, _STEPS, _STEPS) if held.negative else (0, 255, 255)
    rounded: Tensor = torch.fake_quantize_per_tensor_affine(
        x.float(), max(held.largest, _SMALLEST) / steps, 0, low, high
    )
    return rounded


def round_weight(weight: Tensor) -> Tensor:
    """Weights (outputs, ...) as int8 holds them.

    A batch norm that is folded later multiplies each output channel and its scale alike: the rounding is the same.
    """
    largest = weight.detach().flatten(1).abs().amax(1).float()
    zeros = torch.zeros(largest.shape, dtype=torch.int32, device=weight.device)
    scale = largest.clamp(min=_SMALLEST) / _STEPS
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zeros, 0, -_STEPS, _STEPS)
