"""The training loop: Lightning Fabric, one process, any accelerator that Fabric finds."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor

from rs4d_edge.errors import InputError, RS4DError
from rs4d_edge.reference.checkpoints import save_checkpoint
from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.losses import LossSettings
from rs4d_edge.training.augment import AugmentConfig
from rs4d_edge.training.batch_norms import batch_norms
from rs4d_edge.training.batches import Batch, BatchMaker, ImageCache, Prefetcher
from rs4d_edge.training.freezing import freeze, freeze_parts, rate_scales
from rs4d_edge.training.instances import InstanceDataset
from rs4d_edge.training.optimizer import WeightAverage, build_optimizer, learning_rate
from rs4d_edge.training.progress import RunLog, forget_after
from rs4d_edge.training.qat import Rounding, check_resumed
from rs4d_edge.training.run_state import RunState, load_run_state, save_run_state
from rs4d_edge.training.settings import TrainSettings

BEST_NAME, LAST_NAME, METRICS_NAME = "best.safetensors", "last.safetensors", "metrics.jsonl"
MAX_BAD_STEPS = 20  # in a row; a single non-finite gradient is skipped, a stream of them is a fault
STEP_SEED_FACTOR = 1_000_003  # prime, keeps the step seeds of neighbouring run seeds apart

Evaluate = Callable[[RS4D], Mapping[str, Any]]


@dataclass
class TrainResult:
    """How a run ended. `best` is the evaluation with the highest mask AP (empty without evaluations)."""

    steps: int
    elapsed_s: float
    finished: bool
    best: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)


class Trainer:
    """Trains one model on one data set into one folder; `evaluate` gets the averaged model and returns COCO figures.

    `stop()` ends the run after the present step with its state saved; it may be called from a signal handler.
    """

    def __init__(
        self,
        model: RS4D,
        dataset: InstanceDataset,
        settings: TrainSettings,
        out_dir: Path,
        *,
        evaluate: Evaluate | None = None,
        console: Console | None = None,
    ) -> None:
        if tuple(dataset.classes) != tuple(model.config.classes):
            raise InputError(
                f"the data set {dataset.name} has the classes {dataset.classes}, the model {model.config.classes}; "
                "build the model for the classes of its data"
            )
        self.settings = settings
        self.dataset = dataset
        self.out_dir = out_dir
        self.steps_per_epoch = max(len(dataset.records) // settings.batch, 1)
        self.total_steps = None if settings.epochs is None else settings.epochs * self.steps_per_epoch
        self._evaluate = evaluate
        self._console = console or Console()
        self._fabric = Fabric(accelerator="auto", devices=1, precision=settings.precision)
        self._raw: RS4D = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._frozen = freeze(self._raw.backbone, settings.frozen_layers)
        self._frozen += freeze_parts(self._raw, settings.frozen_parts)
        self._loss_settings = LossSettings.of(model.config)._replace(
            mask_regions=settings.mask_regions, box_prompts=settings.box_prompts
        )
        optimizer = build_optimizer(self._raw, settings, rate_scales(self._raw.backbone, settings.layer_decay))
        self._model, self._optimizer = self._fabric.setup(self._raw, optimizer)
        self._model.mark_forward_method("losses")
        self._average = WeightAverage(self._raw, settings.ema_decay)
        self._averaged_model = copy.deepcopy(self._raw)
        self._rounding = Rounding(self._raw, self._averaged_model) if settings.qat else None
        if self._rounding is not None:
            # Statistics of a batch would scale its channels anew at each step, and the export folds the running ones.
            self._frozen += batch_norms(self._raw)
        self._stopping = False
        self._step = 0
        self._start = 0.0
        self._best_ap = -1.0
        self._bad_steps = 0
        self._result = TrainResult(0, 0.0, False)

    @property
    def config(self) -> DetectorConfig:
        """The configuration of the model in training."""
        return self._raw.config

    def stop(self) -> None:
        """Asks the loop to save and end after the present step."""
        self._stopping = True

    def run(self, *, resume: bool = False) -> TrainResult:
        """Trains until the settings' end or until `stop()`. With `resume` the folder's saved state goes on."""
        self.out_dir.mkdir(parents=True, exist_ok=True)
        elapsed = self._restore() if resume else 0.0
        if not resume:
            (self.out_dir / METRICS_NAME).unlink(missing_ok=True)
            if self._rounding is not None:
                images = min(self.settings.qat_calibration_images, len(self.dataset.records))
                self._console.print(f"measure the ranges of tensors on {images} images")
                self._rounding.measure(self._raw, self.dataset, images)
        self._start = time.monotonic() - elapsed
        largest = max(self.settings.largest_size, self.settings.augment.fit_size or 0)
        maker = BatchMaker(
            self.dataset,
            self.settings.batch,
            self.settings.seed,
            ImageCache(round(largest * self.settings.augment.scale_range[1])),
        )
        prefetcher = Prefetcher(maker, self._plan, self._step, workers=self.settings.data_workers)
        try:
            with RunLog(self.out_dir / METRICS_NAME, self._console) as log:
                self._loop(prefetcher, log)
        finally:
            prefetcher.close()
        self._result.steps, self._result.elapsed_s = self._step, self._elapsed()
        return self._result

    def _loop(self, prefetcher: Prefetcher[Batch], log: RunLog) -> None:
        marks = self._marks_passed(self._progress(self._step))
        while self._progress(self._step) < 1 and not self._stopping:
            started, waited = time.perf_counter(), prefetcher.waited_s
            batch = prefetcher.next()
            losses, norm = self._train_step(batch)
            self._step += 1
            took = time.perf_counter() - started
            numbers = {
                "lr": max(group["lr"] for group in self._optimizer.param_groups),
                "norm": norm,
                "size": batch.frame.shape[1],
                "images_per_s": len(batch.frame) / took,
                "waiting": (prefetcher.waited_s - waited) / took,
            }
            progress = self._progress(self._step)
            log.step(self._step - 1, progress, losses, numbers)
            if self._step % self.settings.save_every_steps == 0:
                self._save()
            if self._marks_passed(progress) > marks and progress < 1:
                marks = self._marks_passed(progress)
                self._evaluate_now(log)
        self._result.finished = self._progress(self._step) >= 1
        if self._result.finished and self.settings.evaluations:
            self._evaluate_now(log)
        self._save()

    def _train_step(self, batch: Batch) -> tuple[dict[str, float], float]:
        """Forward, backward, clipped step, average. Returns the loss parts and the gradient's norm before clipping."""
        torch.manual_seed(self.settings.seed * STEP_SEED_FACTOR + self._step)  # samplers draw from torch's generator
        self._model.train()
        for module in self._frozen:
            module.eval()  # the statistics of its batch norms stay, too
        rate = learning_rate(self.settings, self._step, self._progress(self._step))
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]
        batch = self._to_device(batch)
        losses: dict[str, Tensor] = self._model.losses(
            batch.frame, batch.valid_hw, batch.targets, settings=self._loss_settings
        )
        total = torch.stack([value.float() for value in losses.values()]).sum()
        self._fabric.backward(total)
        norm_tensor = self._fabric.clip_gradients(
            self._model, self._optimizer, max_norm=self.settings.clip_norm, error_if_nonfinite=False
        )
        norm = float(norm_tensor) if norm_tensor is not None else 0.0
        if norm == norm and norm != float("inf"):
            self._optimizer.step()
            self._average.update()
            self._bad_steps = 0
        else:
            self._bad_steps += 1
            if self._bad_steps >= MAX_BAD_STEPS:
                raise RS4DError(
                    f"{MAX_BAD_STEPS} steps in a row had non-finite gradients (step {self._step}): "
                    "lower the learning rate or train with precision 32-true"
                )
        self._optimizer.zero_grad(set_to_none=True)
        parts = {name: float(value.detach()) for name, value in losses.items()}
        return {"loss": float(total.detach()), **parts}, norm

    def _to_device(self, batch: Batch) -> Batch:
        device = self._fabric.device
        if device.type == "cpu":
            return batch
        targets = [type(target)(*(value.to(device) for value in target)) for target in batch.targets]
        return Batch(batch.frame.to(device), batch.valid_hw.to(device), targets)

    def averaged_model(self) -> RS4D:
        """The model with averaged weights, in evaluation mode; the same object at each call."""
        self._averaged_model.load_state_dict(self._average.state)
        model: RS4D = self._averaged_model.eval()
        return model

    def _evaluate_now(self, log: RunLog) -> None:
        model = self.averaged_model()
        save_checkpoint(model, self.out_dir / LAST_NAME, self._metadata({}))
        if self._evaluate is None:
            return
        started = time.perf_counter()
        figures = dict(self._evaluate(model))
        ap = float(figures["segm"]["AP"])
        record = {"kind": "val", "step": self._step, "elapsed_s": round(self._elapsed(), 1), **figures}
        log.write(record)
        log.note(
            f"step {self._step}: mask AP {ap:.4f} AP50 {figures['segm']['AP50']:.4f}, box AP "
            f"{figures['bbox']['AP']:.4f} AP50 {figures['bbox']['AP50']:.4f} "
            f"(evaluated in {time.perf_counter() - started:.1f} s)"
        )
        self._result.last = record
        if ap > self._best_ap:
            self._best_ap = ap
            self._result.best = record
            save_checkpoint(model, self.out_dir / BEST_NAME, self._metadata({"segm_AP": f"{ap:.4f}"}))

    def _metadata(self, extra: dict[str, str]) -> dict[str, str]:
        rounding = self._rounding.metadata() if self._rounding is not None else {}
        return {"step": str(self._step), "train_settings": self.settings.model_dump_json(), **rounding, **extra}

    def _plan(self, step: int) -> tuple[int, AugmentConfig] | None:
        if self.total_steps is not None and step >= self.total_steps:
            return None
        progress = self._progress(step)
        return self.settings.size_of_step(step, progress), self.settings.augment_at(progress)

    def _progress(self, step: int) -> float:
        if self.settings.max_minutes is not None:
            return self._elapsed() / (60 * self.settings.max_minutes)
        return step / (self.total_steps or 1)

    def _marks_passed(self, progress: float) -> int:
        return int(progress * self.settings.evaluations)

    def _elapsed(self) -> float:
        return time.monotonic() - self._start

    def _save(self) -> None:
        state = RunState(
            step=self._step,
            elapsed_s=self._elapsed(),
            best_ap=self._best_ap,
            settings=self.settings.model_dump(mode="json"),
            classes=list(self.dataset.classes),
            model=self._raw.state_dict(),
            average=self._average.state,
            average_updates=self._average.updates,
            optimizer=self._optimizer.state_dict(),
            best=self._result.best,
            qat_ranges=self._rounding.stored() if self._rounding is not None else {},
        )
        save_run_state(state, self.out_dir)

    def _restore(self) -> float:
        state = load_run_state(self.out_dir)
        if state.classes != list(self.dataset.classes):
            raise InputError(f"the saved run was trained on {state.classes}, not on {list(self.dataset.classes)}")
        check_resumed(self._rounding, state.qat_ranges)
        if self._rounding is not None:
            self._rounding.restore(state.qat_ranges)
        self._raw.load_state_dict(state.model)
        self._average.load(state.average, state.average_updates)
        self._optimizer.load_state_dict(state.optimizer)
        self._step, self._best_ap, self._result.best = state.step, state.best_ap, state.best
        forget_after(self.out_dir / METRICS_NAME, state.step)
        return state.elapsed_s
