"""The adaptive rule: how much noise and how many hidden patches the student gets, given how its training stands.

The published method follows "the training state" without a formula. This one is built on three demands.

1. Corruption shall cost the student a fixed share of what it has learnt. Too little teaches nothing that the clean
   picture does not; too much turns distillation into denoising, and the clean embedding, the one that is used, suffers.
   What was learnt is the distance from a predictor that knows each picture's mean embedding but nothing of where things
   are (its loss is `constant`) to the student on clean pictures (`clean`). So the cost of a corruption is

       cost = |corrupted - clean| / (constant - clean)

   0 where the student sees through the corruption, 1 where nothing is left of what it learnt. The amount counts: a
   student that does better on spoiled pictures has come to expect them, and the clean ones pay for it. Unlike the plain
   ratio of the two losses it does not depend on the scale of the teacher's embedding or on the progress made.
2. A student that has learnt nothing loses nothing, so its cost is 0 as well: corruption begins only once the clean loss
   lies a share of `learnt_first` below the constant predictor's, and falls back where that is lost again.
3. The course shall be calm and repeatable. All losses are those of paired passes over the same pictures, each with its
   own batch statistics (see `batch_norms`), smoothed exponentially. A level moves in proportion to
   (target - cost) / target, by at most 1 / `ramp_probes` of its range a probe, and stays within [0, most]. Nothing is
   random; the state is a handful of numbers, saved with the checkpoints.

Noise and masking have a level and a cost each. They are learnt at different times: noise is averaged away by the first
layers, while a hidden patch has to be told from its surroundings, which comes late.

A level is the strongest corruption in use, and the one that is probed: each picture draws its own between 0 and the
level. Where all were spoiled alike, a student came to expect that very noise: its cost turned negative while its clean
loss rose (docs/distillation.md has the figures).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from rs4d_edge.training.corruption import Levels
from rs4d_edge.training.distill_settings import CorruptionSettings

_LOSSES = ("clean", "corrupted", "constant")


class ProbeLosses(NamedTuple):
    """L1 losses over the same pictures: clean, with noise alone, with hidden patches alone, and the constant's."""

    clean: float
    noisy: float
    masked: float
    constant: float


class AdaptiveLevel:
    """One level in [0, most] that follows the cost of its corruption; starts at 0."""

    def __init__(self, most: float, settings: CorruptionSettings) -> None:
        self.most = most
        self.level = 0.0
        self._settings = settings
        self._smooth: dict[str, float] | None = None

    def update(self, clean: float, corrupted: float, constant: float) -> float:
        """Takes one probe's losses and returns the new level. A probe that is not finite lowers it."""
        settings = self._settings
        if all(math.isfinite(value) for value in (clean, corrupted, constant)):
            self._smooth = self._smoothed(clean, corrupted, constant)
            pull = (settings.target_cost - self.cost) / settings.target_cost
        else:
            pull = -1.0
        step = self.most / settings.ramp_probes * min(max(pull, -1.0), 1.0)
        self.level = min(max(self.level + step, 0.0), self.most)
        return self.level

    @property
    def cost(self) -> float:
        """Smoothed share of what was learnt that the corruption costs; 1 as long as too little was learnt to tell."""
        if self._smooth is None:
            return 1.0
        learnt = self._smooth["constant"] - self._smooth["clean"]
        if learnt <= self._settings.learnt_first * self._smooth["constant"]:
            return 1.0
        return abs(self._smooth["corrupted"] - self._smooth["clean"]) / learnt

    def _smoothed(self, *losses: float) -> dict[str, float]:
        """All three start together and share one weight, so that their ratios need no correction of the start."""
        present = dict(zip(_LOSSES, losses, strict=True))
        if self._smooth is None:
            return present
        keep = self._settings.smoothing
        return {name: keep * self._smooth[name] + (1 - keep) * present[name] for name in _LOSSES}

    def state(self) -> dict[str, float]:
        """The numbers that the next update depends on."""
        return {"level": self.level, **(self._smooth or {})}

    def load(self, state: dict[str, float]) -> None:
        """Continues from another's `state()`."""
        self.level = state["level"]
        self._smooth = {name: state[name] for name in _LOSSES} if _LOSSES[0] in state else None


class CorruptionCourse:
    """The levels of a run, step by step: none, fixed, or adaptive."""

    def __init__(self, settings: CorruptionSettings) -> None:
        self.settings = settings
        self._noise = AdaptiveLevel(settings.most_noise, settings)
        self._mask = AdaptiveLevel(settings.most_mask, settings)

    @property
    def levels(self) -> Levels:
        """What the next step applies."""
        if self.settings.mode == "adaptive":
            return Levels(self._noise.level, self._mask.level)
        return Levels(self.settings.noise, self.settings.mask)  # zero in mode `none`

    def probe_due(self, step: int) -> bool:
        """Whether this step begins with a probe."""
        return self.settings.mode == "adaptive" and step % self.settings.probe_every_steps == 0

    def update(self, losses: ProbeLosses) -> Levels:
        """Takes the probe's losses and returns the levels from now on."""
        self._noise.update(losses.clean, losses.noisy, losses.constant)
        self._mask.update(losses.clean, losses.masked, losses.constant)
        return self.levels

    def figures(self) -> dict[str, float]:
        """For the log: both levels and, where they are adaptive, the costs that they follow."""
        shown = {"noise": self.levels.noise, "mask": self.levels.mask}
        if self.settings.mode == "adaptive":
            shown |= {"noise_cost": self._noise.cost, "mask_cost": self._mask.cost}
        return shown

    def state(self) -> dict[str, dict[str, float]]:
        """For the checkpoint."""
        return {"noise": self._noise.state(), "mask": self._mask.state()}

    def load(self, state: dict[str, dict[str, float]]) -> None:
        """Continues from another's `state()`."""
        self._noise.load(state["noise"])
        self._mask.load(state["mask"])
