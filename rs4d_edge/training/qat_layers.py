"""The layers that learn with rounding: those that an export may quantize, found in the model by the graph's names.

Only a layer's class is changed: its parameters keep their names, so checkpoints stay plain float ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

from rs4d_edge.calibration.layers import EXACT_RESULTS, high_precision_group
from rs4d_edge.calibration.trained_ranges import RESULT
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.neck import FeatureAggregator
from rs4d_edge.training.qat_rounding import RoundedTensors, Rounder, round_weight

# A ReLU that is no module follows it, and the layers behind round what that gives: the tensor that the graph rounds.
_ROUNDED_BY_READERS = frozenset({"rpn_head.rpn_conv"})


class RoundedConv2d(nn.Conv2d):
    """`Conv2d` on a rounded input with rounded weights; the same state."""

    rounder: Rounder

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) to (B, c, h', w')."""
        x = self.rounder(input)
        weight = self.weight if self.rounder.tensors.observing else round_weight(self.weight)
        result: Tensor = self._conv_forward(x, weight, self.bias)
        return result


class RoundedLinear(nn.Linear):
    """`Linear` on a rounded input with rounded weights; the same state."""

    rounder: Rounder

    def forward(self, input: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        x = self.rounder(input)
        weight = self.weight if self.rounder.tensors.observing else round_weight(self.weight)
        return nn.functional.linear(x, weight, self.bias)


_ROUNDED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: RoundedConv2d, nn.Linear: RoundedLinear}


class RoundedLayer(NamedTuple):
    """A layer that becomes int8.

    Its first node in the exported graph has the `name`, but for the operator, and the number `first`. `tail` makes the
    result that the graph rounds, None if it rounds none.
    """

    module: nn.Module
    name: str
    first: int
    tail: nn.Module | None


def rounded_layers(model: RS4D) -> Iterator[RoundedLayer]:
    """The layers of the model that an export may quantize: `calibration.layers` says which, by the same names."""
    paths = {module: path for path, module in model.named_modules()}
    followers = _followers(model)
    narrowing = _narrowing(model)
    for module, path in paths.items():
        if type(module) not in _ROUNDED:
            continue
        name, first = path, 0
        tail: nn.Module | None = module if isinstance(module, nn.Conv2d) else None
        if module in narrowing:
            aggregator, first = narrowing[module]
            name, tail = paths[aggregator], None
        elif module in followers:
            folded, tail = followers[module]
            name = paths[folded]
        if high_precision_group(f"{name}/") is not None:
            continue
        exact = EXACT_RESULTS.match(f"{name}/") or name in _ROUNDED_BY_READERS
        yield RoundedLayer(module, name, first, None if exact else tail)


def install(model: RS4D, tensors: RoundedTensors) -> None:
    """Let the model compute with rounding, in place; `tensors` holds the ranges."""
    rounders: list[Rounder] = []
    for layer in list(rounded_layers(model)):
        rounder = Rounder(tensors, layer.name, layer.first)
        rounders.append(rounder)
        layer.module.__class__ = _ROUNDED[type(layer.module)]
        layer.module.rounder = rounder  # type: ignore[assignment]  # neither a tensor nor a module
        if layer.tail is not None:
            result = Rounder(tensors, layer.name, layer.first, RESULT)
            rounders.append(result)
            layer.tail.register_forward_hook(result.hook)
    model.backbone.register_forward_pre_hook(_Restart(rounders))  # every pass begins with it, and it runs once in it


class _Restart:
    def __init__(self, rounders: list[Rounder]) -> None:
        self._rounders = rounders

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        for rounder in self._rounders:
            rounder.restart()


def _followers(model: nn.Module) -> dict[nn.Module, tuple[nn.Module, nn.Module]]:
    """For convolutions with a batch norm behind them: that norm, and the ReLU behind it or else the norm again.

    The folded node has the norm's name, and the last one makes the result that is rounded.
    """
    found: dict[nn.Module, tuple[nn.Module, nn.Module]] = {}
    for parent in model.modules():
        children = list(parent.children()) if isinstance(parent, nn.Sequential) else []
        for index, conv in enumerate(children[:-1]):
            norm = children[index + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                after = children[index + 2] if index + 2 < len(children) else None
                found[conv] = norm, after if isinstance(after, nn.ReLU) else norm
    return found


def _narrowing(model: nn.Module) -> dict[nn.Module, tuple[nn.Module, int]]:
    """The convolutions that the published neck exports as products of its own, and their numbers among them."""
    return {
        next(down.children()): (module, number)
        for module in model.modules()
        if isinstance(module, FeatureAggregator)
        for number, down in enumerate(module.downconvs)
    }
