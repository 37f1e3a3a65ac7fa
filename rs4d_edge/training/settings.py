"""What decides a training run, in one immutable object that is stored with its checkpoints."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rs4d_edge.errors import InputError
from rs4d_edge.training.augment import AugmentConfig
from rs4d_edge.training.freezing import FrozenPart

SIZE_MULTIPLE = 32  # coarser pyramid levels then divide evenly
SIZE_STREAM = 3  # keeps the random numbers of sizes apart from those of order and samples


class SizeStage(BaseModel):
    """Side in pixels of the square training images, for a share of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=SIZE_MULTIPLE, multiple_of=SIZE_MULTIPLE)
    share: float = Field(gt=0.0)


class TrainSettings(BaseModel):
    """One training run. Exactly one of `epochs` and `max_minutes` ends it, and the schedule follows that one.

    With `epochs` a run is deterministic from `seed` and exactly resumable. With `max_minutes` the cosine and the image
    sizes follow the elapsed time (evaluations included), so that the run ends properly annealed at its deadline.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int | None = Field(None, ge=1)
    max_minutes: float | None = Field(None, gt=0.0)
    batch: int = Field(8, ge=1)
    lr: float = Field(1e-3, gt=0.0)
    final_lr_ratio: float = Field(0.01, ge=0.0, le=1.0)
    weight_decay: float = Field(0.05, ge=0.0)
    warmup_steps: int = Field(200, ge=0)
    clip_norm: float = Field(10.0, gt=0.0)
    ema_decay: float = Field(0.998, ge=0.0, lt=1.0)
    seed: int = Field(0, ge=0)
    sizes: tuple[SizeStage, ...] = (SizeStage(size=512, share=1.0),)
    augment: AugmentConfig = AugmentConfig()
    calm_share: float = Field(0.15, ge=0.0, le=1.0)  # of the run's end, without mosaic, free turns and pasting
    evaluations: int = Field(8, ge=0)
    save_every_steps: int = Field(200, ge=1)
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed"
    data_workers: int = Field(1, ge=1)
    multi_scale: float = Field(0.0, ge=0.0, lt=1.0)  # each step's size is drawn within this share of the stage's
    frozen_layers: int | Literal["all"] | None = None  # of the encoder, see `freezing`
    frozen_parts: tuple[FrozenPart, ...] = ()  # whole parts beside the encoder, see `freezing`
    mask_regions: int | None = Field(None, ge=1)  # of a batch, that learn masks; None: all objects among the regions
    box_prompts: float = Field(0.0, ge=0.0)  # weight of a loss that keeps prompts at boxes, see `prompt_start`
    layer_decay: float = Field(1.0, gt=0.0, le=1.0)  # of the learning rate, from each encoder layer to the one below
    qat: bool = False  # learn with the rounding of int8, see `qat`
    qat_calibration_images: int = Field(64, ge=1)  # training images on which the ranges of tensors are measured for it
    initial_weights: str | None = None  # what the run was started from; for its record

    @model_validator(mode="after")
    def _one_end(self) -> TrainSettings:
        if (self.epochs is None) == (self.max_minutes is None):
            raise ValueError("give exactly one of epochs and max_minutes: it decides when the run ends")
        if not self.sizes:
            raise ValueError("sizes must name at least one training size")
        return self

    @field_validator("frozen_layers")
    @classmethod
    def _counted(cls, layers: int | str | None) -> int | str | None:
        if isinstance(layers, int) and layers < 0:
            raise ValueError(f"frozen_layers {layers}: expected a number of layers from 0, or all")
        return layers

    def size_of_step(self, step: int, progress: float) -> int:
        """The training size of a step: its stage's, or with `multi_scale` one drawn around it by seed and step."""
        size = self.size_at(progress)
        if not self.multi_scale:
            return size
        low, high = (max(round(size * (1 + sign * self.multi_scale) / SIZE_MULTIPLE), 1) for sign in (-1, 1))
        rng = np.random.default_rng([self.seed, SIZE_STREAM, step])
        return SIZE_MULTIPLE * int(rng.integers(low, high + 1))

    @property
    def largest_size(self) -> int:
        """No training image is larger."""
        largest = max(stage.size for stage in self.sizes)
        return max(SIZE_MULTIPLE * round(largest * (1 + self.multi_scale) / SIZE_MULTIPLE), largest)

    def size_at(self, progress: float) -> int:
        """The size of the stage at a progress of 0..1."""
        total = sum(stage.share for stage in self.sizes)
        reached = 0.0
        for stage in self.sizes:
            reached += stage.share / total
            if progress < reached:
                return stage.size
        return self.sizes[-1].size

    def augment_at(self, progress: float) -> AugmentConfig:
        """The augmentation at a progress of 0..1: calmer towards the end, closer to what inference sees."""
        if progress < 1 - self.calm_share:
            return self.augment
        return self.augment.model_copy(update={"mosaic": 0.0, "free_turn": 0.0, "copy_paste": 0.0})


def parse_sizes(text: str) -> tuple[SizeStage, ...]:
    """`"384:0.4,512:0.6"` or `"512"` as stages; `InputError` where it is anything else."""
    stages = []
    for part in text.split(","):
        size, _, share = part.partition(":")
        try:
            stages.append(SizeStage(size=int(size), share=float(share or 1.0)))
        except ValueError as error:
            raise InputError(
                f"sizes {text!r}: {part!r} is no SIZE:SHARE with a size that is a multiple of {SIZE_MULTIPLE} "
                "and a share above 0, as in 384:0.4,512:0.6"
            ) from error
    return tuple(stages)
