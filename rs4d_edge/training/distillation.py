"""The distillation run: a student learns a teacher's embedding, in one process or many, on any device Fabric finds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console

from rs4d_edge.errors import InputError
from rs4d_edge.reference.checkpoints import save_checkpoint
from rs4d_edge.reference.config import EncoderConfig
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.training.batches import Prefetcher
from rs4d_edge.training.corruption import Levels
from rs4d_edge.training.distill_measuring import measure
from rs4d_edge.training.distill_samples import DistillBatch, SampleMaker
from rs4d_edge.training.distill_settings import DistillSettings
from rs4d_edge.training.distill_step import DistillStep
from rs4d_edge.training.embedding_cache import EmbeddingCache, Entry
from rs4d_edge.training.progress import RunLog, forget_after
from rs4d_edge.training.run_state import read_content, write_content
from rs4d_edge.training.student import Student
from rs4d_edge.training.teacher_targets import TargetMaker, fill_cache
from rs4d_edge.training.teachers import Preprocessing, Teacher, spread_layers
from rs4d_edge.training.trainer import METRICS_NAME
from rs4d_edge.training.unlabelled import UnlabelledImages

ENCODER_NAME = "encoder.safetensors"
STATISTICS_IMAGES = 64  # thousands of cells each: more would not move a mean or a deviation
STATE_VERSION = "distillation-1"
# What may differ between a run and its continuation: length and pace. Everything else decides what a step does.
FREE_SETTINGS = frozenset({"epochs", "max_minutes", "evaluations", "save_every_steps", "data_workers"})


@dataclass
class DistillResult:
    """How a run ended. `held_out` has the averaged student's figures on the pictures kept apart (empty without any)."""

    steps: int
    elapsed_s: float
    finished: bool
    images: int
    held_out_images: int
    held_out: dict[str, float] = field(default_factory=dict)


def open_fabric(settings: DistillSettings, accelerator: str = "auto", devices: int = 1) -> Fabric:
    """One process, or `devices` of them with gradients averaged over all (DDP); starts the others."""
    strategy = "ddp" if devices > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, devices=devices, strategy=strategy, precision=settings.precision)
    fabric.launch()
    return fabric


class Distiller:
    """Distils one teacher into a new encoder, from one set of pictures into one folder.

    With several processes each builds its own from the same arguments. `stop()` ends the run after the present step
    with its state saved; it may be called from a signal handler.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        teacher: Teacher,
        images: UnlabelledImages,
        settings: DistillSettings,
        out_dir: Path,
        *,
        fabric: Fabric,
        cache_dir: Path | None = None,
        console: Console | None = None,
    ) -> None:
        if settings.cached != (cache_dir is not None):
            raise InputError(f"cached={settings.cached} with the cache folder {cache_dir}: give both or neither")
        self.settings, self.out_dir, self.teacher, self.encoder_config = settings, out_dir, teacher, encoder
        self._fabric = fabric
        self._console = (console or Console()) if fabric.is_global_zero else Console(quiet=True)
        self._images = images
        self._train_images, self._held_out = images.split(settings.holdout)
        self.steps_per_epoch = max(len(self._train_images.images) // settings.batch, 1)
        self.total_steps = None if settings.epochs is None else settings.epochs * self.steps_per_epoch
        self.student_side = _student_side(encoder, settings)
        self._preprocessing = Preprocessing(side=self.student_side)
        layers = spread_layers(teacher.depth, settings.loss.layer_maps)
        self._targets = TargetMaker(teacher, layers, settings.teacher_precision, fabric.device)
        self._cache = None
        if cache_dir is not None:
            self._cache = EmbeddingCache(cache_dir, teacher, layers, settings.teacher_precision)
        self._samples = self._maker(self._train_images)
        student = self._student()
        self.encoder_parameters = sum(parameter.numel() for parameter in student.encoder.parameters())
        self._train = DistillStep(fabric, student, self._targets, self._preprocessing, settings)
        self._asked_to_stop = self._stopping = False
        self._step = 0
        self._start = self._elapsed = 0.0
        self._figures: dict[str, float] = {}

    @property
    def levels(self) -> Levels:
        """The corruption that the next step would apply."""
        return self._train.course.levels

    def _student(self) -> Student:
        torch.manual_seed(self.settings.seed)
        layers = spread_layers(self.encoder_config.depth, self.settings.loss.layer_maps)
        return Student(RSMamba(self.encoder_config), self.teacher.channels, layers, self.teacher.layer_channels)

    def _maker(self, images: UnlabelledImages) -> SampleMaker:
        return SampleMaker(
            images,
            self._preprocessing,
            self.teacher.preprocessing,
            self._cache,
            seed=self.settings.seed,
            orientations=self.settings.orientations,
            smallest_crop=self.settings.smallest_crop,
        )

    def stop(self) -> None:
        """Asks the loop to save and end after the present step."""
        self._asked_to_stop = True

    def run(self, *, resume: bool = False) -> DistillResult:
        """Distils until the settings' end or until `stop()`. With `resume` the folder's saved state goes on."""
        self.out_dir.mkdir(parents=True, exist_ok=True)
        self._elapsed = self._restore() if resume else 0.0
        if self._cache is not None:
            self._fill(self._cache)
        self._start = time.monotonic() - self._elapsed
        prefetcher = Prefetcher(self._batch, self._plan, self._step, workers=self.settings.data_workers)
        try:
            if self._fabric.is_global_zero:
                forget_after(self.out_dir / METRICS_NAME, self._step)
                with RunLog(self.out_dir / METRICS_NAME, self._console) as log:
                    self._loop(prefetcher, log)
            else:
                self._loop(prefetcher, None)
        finally:
            prefetcher.close()
        counts = (len(self._train_images.images), len(self._held_out.images))
        return DistillResult(self._step, self._elapsed, self._progress() >= 1, *counts, self._figures)

    def _fill(self, cache: EmbeddingCache) -> None:
        shown = [Entry(i.sha256, k) for i in self._train_images.images for k in range(self.settings.orientations)]
        shown += [Entry(image.sha256, 0) for image in self._held_out.images]
        fill_cache(cache, shown, self._images.images, self.teacher, self._targets, self._fabric, self._console)

    def _batch(self, step: int) -> DistillBatch:
        """The share of a step that falls to this process."""
        share = self.settings.batch // self._fabric.world_size
        return self._samples.batch(step * self.settings.batch + self._fabric.global_rank * share, share)

    def _plan(self, step: int) -> tuple[()] | None:
        return None if self.total_steps is not None and step >= self.total_steps else ()

    def _loop(self, prefetcher: Prefetcher[DistillBatch], log: RunLog | None) -> None:
        marks = self._marks_passed()
        while self._progress() < 1 and not self._stopping:
            started, waited = time.perf_counter(), prefetcher.waited_s
            losses, numbers = self._train(prefetcher.next(), self._step, self._progress())
            self._step += 1
            self._agree()
            if log is not None:
                took = time.perf_counter() - started
                pace = {"images_per_s": self.settings.batch / took, "waiting": (prefetcher.waited_s - waited) / took}
                log.step(self._step - 1, self._progress(), losses, {**numbers, **pace})
            if self._step % self.settings.save_every_steps == 0:
                self._save()
            if self._marks_passed() > marks and self._progress() < 1:
                marks = self._marks_passed()
                self._evaluate(log)
        if self._progress() >= 1:
            self._evaluate(log)
        self._save()

    def _agree(self) -> None:
        """One clock and one will for all processes: whoever is latest, and whoever was told to stop, decides."""
        self._elapsed = time.monotonic() - self._start
        self._stopping = self._asked_to_stop
        if self._fabric.world_size > 1:
            told = torch.tensor([self._elapsed, float(self._stopping)], dtype=torch.float64, device=self._fabric.device)
            elapsed, stopping = self._fabric.all_reduce(told, reduce_op="max").tolist()  # type: ignore[union-attr]
            self._elapsed, self._stopping = elapsed, bool(stopping)

    def _progress(self) -> float:
        if self.settings.max_minutes is not None:
            return self._elapsed / (60 * self.settings.max_minutes)
        return self._step / (self.total_steps or 1)

    def _marks_passed(self) -> int:
        return int(self._progress() * self.settings.evaluations)

    def _evaluate(self, log: RunLog | None) -> None:
        """Measures the averaged student on the pictures kept apart, and writes its encoder."""
        student = self._train.averaged(self._clean_batches())
        if self._held_out.images:
            samples, count = self._maker(self._held_out), len(self._held_out.images)
            size = self._train.images_per_pass
            self._figures = measure(student, samples, count, size, self._targets, self._preprocessing, self._fabric)
        if log is not None:
            log.write({"kind": "held out", "step": self._step, "elapsed_s": round(self._elapsed, 1), **self._figures})
            log.note(f"step {self._step}: held out " + " ".join(f"{k} {v:.4f}" for k, v in self._figures.items()))
            metadata = {"step": str(self._step), "distill_settings": self.settings.model_dump_json()}
            teacher = {"teacher": self.teacher.name, "teacher_sha256": self.teacher.fingerprint}
            save_checkpoint(student.encoder, self.out_dir / ENCODER_NAME, {**metadata, **teacher})

    def _clean_batches(self) -> Iterator[DistillBatch]:
        """Clean pictures for the statistics of batch norms; what all processes see together is what one would see."""
        share = self._train.images_per_pass
        together = share * self._fabric.world_size
        for number in range(max(STATISTICS_IMAGES // together, 1)):
            yield self._samples.frames(number * together + self._fabric.global_rank * share, share)

    def _identity(self) -> dict[str, object]:
        """What a run and its continuation must have in common, by name."""
        settings = self.settings.model_dump(mode="json", exclude=set(FREE_SETTINGS))
        return {
            **settings,
            "student": self.encoder_config.model_dump(mode="json"),
            "teacher": self.teacher.fingerprint,
            "images": self._images.digest(),
        }

    def _save(self) -> None:
        if self._fabric.is_global_zero:
            content = {"version": STATE_VERSION, "step": self._step, "elapsed_s": self._elapsed}
            write_content({**content, "identity": self._identity(), **self._train.state()}, self.out_dir)

    def _restore(self) -> float:
        state = read_content(self.out_dir, STATE_VERSION)
        identity = self._identity()
        other = sorted(name for name in identity if state["identity"].get(name) != identity[name])
        if other:
            raise InputError(
                f"the run saved in {self.out_dir} had other values of {', '.join(other)}: resume it with its own, or "
                "start a new run in another folder"
            )
        self._train.load(state)
        self._step = state["step"]
        return float(state["elapsed_s"])


def _student_side(encoder: EncoderConfig, settings: DistillSettings) -> int:
    height, width = encoder.image_size_hw
    if height != width:
        raise InputError(f"the student takes {height}x{width} pixels: expected a square, as its teacher takes")
    side = settings.image_size or height
    if side % settings.corruption.patch_px:
        raise InputError(
            f"patches of {settings.corruption.patch_px} px do not divide the student's {side} px: use a divisor of it"
        )
    return side
