"""Which layers of a quantized model go back to high precision until its accuracy is kept.

Knows nothing of models: it is given groups of layers and a function that measures. Single groups are put back first,
one at a time, which tells the effect of each; then they go back together, the one with the largest effect first, until
the drop is small enough. If that does not come about while anything is still quantized, the answer is what was best.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rs4d_edge.errors import InputError
from rs4d_edge.evaluation.images_folder import images_beside
from rs4d_edge.quantization_record import AccuracyStep

Measure = Callable[[frozenset[str]], float]
Latency = Callable[[frozenset[str]], float]
Note = Callable[[str], None]


@dataclass(frozen=True)
class ValidationSet:
    """What mask AP is measured on: a COCO file, its images beside it or in `images`."""

    annotations: Path

    @property
    def images_dir(self) -> Path:
        """Where the images are."""
        return images_beside(self.annotations)


@dataclass(frozen=True)
class AccuracyGoal(ValidationSet):
    """The mask AP on `annotations` may fall by `max_drop`."""

    max_drop: float

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise InputError(f"--max-drop {self.max_drop} must be from 0 to below 1: a difference of mask AP")


class Repair(NamedTuple):
    """The layers to restore, the AP with and without int8, whether the drop is small enough, and all measurements."""

    restored: frozenset[str]
    mask_ap: float
    float_ap: float
    met: bool
    steps: tuple[AccuracyStep, ...]


def choose_layers(
    groups: Sequence[frozenset[str]],
    measure: Measure,
    max_drop: float,
    note: Note = lambda text: None,
    latency: Latency | None = None,
) -> Repair:
    """A small set of `groups` whose restoration keeps the mask AP, which `measure` gives for the layers restored.

    `latency` gives their time as a ratio; it is not asked for groups that are restored for their effect alone.
    """
    search = _Search(measure, note, latency)
    everything = frozenset().union(*groups)
    float_ap = search.step("all layers in high precision", everything)
    plain_ap = search.step("all layers quantized", frozenset())
    if float_ap - plain_ap <= max_drop:
        return Repair(frozenset(), plain_ap, float_ap, True, tuple(search.steps))
    gains = [search.step(f"effect of {name_of(group)} alone", group, timed=False) - plain_ap for group in groups]
    ranked = sorted(range(len(groups)), key=lambda index: -gains[index])
    restored: frozenset[str] = frozenset()
    best, best_ap = restored, plain_ap
    for place, index in enumerate(ranked, start=1):
        if groups[index] <= restored:
            continue
        if everything <= restored | groups[index]:
            break
        restored |= groups[index]
        why = f"{name_of(groups[index])} is number {place} by effect ({gains[index]:+.4f})"
        found = search.step(why, restored)
        if found > best_ap:
            best, best_ap = restored, found
        if float_ap - found <= max_drop:
            return Repair(restored, found, float_ap, True, tuple(search.steps))
    return Repair(best, best_ap, float_ap, float_ap - best_ap <= max_drop, tuple(search.steps))


def name_of(group: frozenset[str]) -> str:
    """A group's layers in one line."""
    return ", ".join(sorted(group))


class _Search:
    """Measures each set of layers once, and keeps what was measured."""

    def __init__(self, measure: Measure, note: Note, latency: Latency | None) -> None:
        self._measure, self._note, self._latency = measure, note, latency
        self._known: dict[frozenset[str], float] = {}
        self.steps: list[AccuracyStep] = []

    def step(self, why: str, restored: frozenset[str], *, timed: bool = True) -> float:
        if restored not in self._known:
            self._known[restored] = self._measure(restored)
        found = self._known[restored]
        ratio = self._latency(restored) if timed and self._latency is not None else None
        self.steps.append(AccuracyStep(why=why, restored=tuple(sorted(restored)), mask_ap=found, latency_ratio=ratio))
        self._note(f"mask AP {found:.4f}{'' if ratio is None else f', {ratio:.2f} of the fp32 time'}: {why}")
        return found
