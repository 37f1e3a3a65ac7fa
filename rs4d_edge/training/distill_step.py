"""One optimiser step of distillation: corrupted pictures to the student, clean ones to the teacher, and the probes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from rs4d_edge.errors import InputError, RS4DError
from rs4d_edge.training.adaptive_corruption import CorruptionCourse, ProbeLosses
from rs4d_edge.training.batch_norms import own_statistics, share_batch_norms, take_statistics
from rs4d_edge.training.corruption import Levels, corrupt
from rs4d_edge.training.distill_samples import DistillBatch
from rs4d_edge.training.distill_settings import DistillSettings
from rs4d_edge.training.optimizer import WeightAverage, build_optimizer, learning_rate
from rs4d_edge.training.student import Student, constant_l1, distillation_losses, embedding_l1
from rs4d_edge.training.teacher_targets import TargetMaker, Targets
from rs4d_edge.training.teachers import Preprocessing, normalise
from rs4d_edge.training.trainer import MAX_BAD_STEPS


class DistillStep:
    """Student, optimiser, average and corruption course of a run: all that a step changes, with its saving."""

    def __init__(
        self,
        fabric: Fabric,
        student: Student,
        targets: TargetMaker,
        preprocessing: Preprocessing,
        settings: DistillSettings,
    ) -> None:
        if settings.batch % (fabric.world_size * settings.accumulate):
            raise InputError(
                f"batch {settings.batch} cannot be shared by {fabric.world_size} processes with {settings.accumulate} "
                f"passes each: choose a multiple of {fabric.world_size * settings.accumulate}"
            )
        self.images_per_pass = settings.batch // (fabric.world_size * settings.accumulate)
        self.course = CorruptionCourse(settings.corruption)
        self._fabric, self._targets, self._settings, self._preprocessing = fabric, targets, settings, preprocessing
        if fabric.world_size > 1:
            share_batch_norms(student)
        self._raw: Student = student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._model, self._optimizer = fabric.setup(self._raw, build_optimizer(self._raw, settings))
        self._average = WeightAverage(self._raw, settings.ema_decay)
        self._averaged = copy.deepcopy(self._raw)
        self._bad_steps = 0

    def __call__(self, batch: DistillBatch, step: int, progress: float) -> tuple[dict[str, float], dict[str, float]]:
        """Trains on a batch. Returns the loss parts (of this process's pictures) and what steered the step."""
        self._model.train()
        rate = learning_rate(self._settings, step, progress)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        sums: dict[str, float] = {}
        passes = self._settings.accumulate
        for number in range(passes):
            part = batch.part(number * self.images_per_pass, self.images_per_pass)
            targets = self._targets(part)
            image = self._normalised(part)
            if number == 0 and self.course.probe_due(step):
                self.course.update(self._probe(image, part, targets))
            spoiled = self._spoiled(image, part, self.course.levels, spread=self._settings.corruption.spread)
            with self._fabric.no_backward_sync(self._model, enabled=number < passes - 1):
                losses = distillation_losses(self._model(spoiled), targets.maps, targets.cells, self._settings.loss)
                total = torch.stack(list(losses.values())).sum()
                self._fabric.backward(total / passes)
            for name, value in {"loss": total, **losses}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / passes
        norm = self._optimise(step)
        return sums, {"lr": rate, "norm": norm, **self.course.figures()}

    def _normalised(self, part: DistillBatch) -> Tensor:
        return normalise(part.frame.to(self._fabric.device), part.valid_hw, self._preprocessing)

    def _spoiled(self, image: Tensor, part: DistillBatch, levels: Levels, *, spread: bool) -> Tensor:
        patch_px = self._settings.corruption.patch_px
        return corrupt(image, part.valid_hw, levels, part.seeds, patch_px=patch_px, spread=spread)

    def _optimise(self, step: int) -> float:
        """Clips and steps; returns the gradient's norm before clipping. A single non-finite gradient is skipped."""
        clipped = self._fabric.clip_gradients(
            self._model, self._optimizer, max_norm=self._settings.clip_norm, error_if_nonfinite=False
        )
        norm = float(clipped) if clipped is not None else 0.0
        if math.isfinite(norm):
            self._optimizer.step()
            self._average.update()
            self._bad_steps = 0
        else:
            self._bad_steps += 1
            if self._bad_steps >= MAX_BAD_STEPS:
                raise RS4DError(
                    f"{MAX_BAD_STEPS} steps in a row had non-finite gradients (step {step}): "
                    "lower the learning rate or train with precision 32-true"
                )
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    @torch.no_grad()
    def _probe(self, image: Tensor, part: DistillBatch, targets: Targets) -> ProbeLosses:
        """Losses of one pass's pictures over all processes, each corruption by its own batch's statistics."""
        levels = self.course.levels
        wanted = [Levels(0.0, 0.0), Levels(levels.noise, 0.0), Levels(0.0, levels.mask)]
        found: dict[Levels, Tensor] = {}  # by level, because a level of 0 is the clean picture and needs no pass
        for each in wanted:
            if each not in found:
                with self._fabric.autocast(), own_statistics(self._raw):
                    maps = self._raw(self._spoiled(image, part, each, spread=False))
                found[each] = embedding_l1(maps[0], targets.maps[0], targets.cells).mean()
        losses = torch.stack([found[each] for each in wanted] + [constant_l1(targets.maps[0], targets.cells).mean()])
        if self._fabric.world_size > 1:
            losses = self._fabric.all_reduce(losses, reduce_op="mean")  # type: ignore[assignment]
        return ProbeLosses(*losses.tolist())

    def averaged(self, clean: Iterable[DistillBatch]) -> Student:
        """The student with averaged weights, in evaluation mode; the same object at each call.

        Its batch norms take their statistics from `clean`, batches of pictures that are shown as they are.
        """
        self._averaged.load_state_dict(self._average.state)
        with self._fabric.autocast():
            take_statistics(self._averaged, map(self._normalised, clean))
        averaged: Student = self._averaged
        return averaged

    def state(self) -> dict[str, Any]:
        """For the run's state file."""
        return {
            "model": self._raw.state_dict(),
            "average": self._average.state,
            "average_updates": self._average.updates,
            "optimizer": self._optimizer.state_dict(),
            "bad_steps": self._bad_steps,
            "corruption": self.course.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continues from another's `state()`."""
        self._raw.load_state_dict(state["model"])
        self._average.load(state["average"], state["average_updates"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._bad_steps = state["bad_steps"]
        self.course.load(state["corruption"])
