"""What decides a distillation run, in one immutable object that is stored with its checkpoints."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rs4d_edge.errors import InputError

PATCH_PX = 16  # pixels per side of an encoder's token
CorruptionMode = Literal["none", "fixed", "adaptive"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CorruptionSettings(_Frozen):
    """How the student's input is spoiled. The teacher always sees the clean picture.

    `noise` is the deviation of the additive Gaussian noise, in units of the normalised image's (0.1 is the published
    "10 per cent"); `mask` the share of the image's patches, `patch_px` wide, that become the mean colour. Both belong
    to the mode `fixed`. With `spread` each picture draws its own noise and mask ratio between 0 and the level; without,
    all get the level, as in the published runs. The other values belong to `adaptive`: see `adaptive_corruption`.
    """

    mode: CorruptionMode = "adaptive"
    noise: float = Field(0.0, ge=0.0, le=2.0)
    mask: float = Field(0.0, ge=0.0, le=0.9)
    patch_px: int = Field(PATCH_PX, ge=4)
    spread: bool = True
    most_noise: float = Field(0.5, gt=0.0, le=2.0)
    most_mask: float = Field(0.5, gt=0.0, le=0.9)
    target_cost: float = Field(0.1, gt=0.0, lt=1.0)
    learnt_first: float = Field(0.05, gt=0.0, lt=1.0)
    smoothing: float = Field(0.6, ge=0.0, lt=1.0)
    ramp_probes: int = Field(20, ge=1)
    probe_every_steps: int = Field(20, ge=1)

    @model_validator(mode="after")
    def _levels_belong_to_fixed(self) -> CorruptionSettings:
        if self.mode != "fixed" and (self.noise or self.mask):
            raise ValueError(f"noise {self.noise} and mask {self.mask} belong to mode 'fixed', not {self.mode!r}")
        return self


class LossWeights(_Frozen):
    """Weights of the loss parts. `l1` and `cosine` compare the embeddings, `layers` compares `layer_maps` maps before.

    The maps in between are spread evenly over the depth of both encoders.
    """

    l1: float = Field(1.0, ge=0.0)
    cosine: float = Field(0.0, ge=0.0)
    layers: float = Field(0.0, ge=0.0)
    layer_maps: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _something_to_learn(self) -> LossWeights:
        if not self.l1 and not self.cosine:
            raise ValueError("l1 and cosine are both 0: the embedding itself must be learnt from one of them")
        if bool(self.layers) != bool(self.layer_maps):
            raise ValueError(
                f"layers {self.layers} and layer_maps {self.layer_maps}: a weight needs maps, and maps need a weight"
            )
        return self


class DistillSettings(_Frozen):
    """One distillation run. Exactly one of `epochs` and `max_minutes` ends it, and the schedule follows that one.

    With `epochs` a run is deterministic from `seed` and exactly resumable. `batch` counts the images of an optimiser
    step over all processes and accumulated passes, so that neither changes what is learnt. `image_size` is the side of
    the student's input in pixels (None: the preset's). `smallest_crop` is the smallest random crop, as a share of each
    side (1: whole pictures). `holdout` is the share of the pictures that is kept apart to measure on.
    """

    epochs: int | None = Field(None, ge=1)
    max_minutes: float | None = Field(None, gt=0.0)
    batch: int = Field(16, ge=1)
    accumulate: int = Field(1, ge=1)
    lr: float = Field(5e-4, gt=0.0)
    final_lr_ratio: float = Field(0.01, ge=0.0, le=1.0)
    weight_decay: float = Field(0.05, ge=0.0)
    warmup_steps: int = Field(200, ge=0)
    clip_norm: float = Field(5.0, gt=0.0)
    ema_decay: float = Field(0.998, ge=0.0, lt=1.0)
    seed: int = Field(0, ge=0)
    image_size: int | None = Field(None, ge=2 * PATCH_PX, multiple_of=PATCH_PX)
    turns: bool = True
    smallest_crop: float = Field(1.0, gt=0.0, le=1.0)
    cached: bool = False
    loss: LossWeights = LossWeights()
    corruption: CorruptionSettings = CorruptionSettings()
    holdout: float = Field(0.05, ge=0.0, le=0.5)
    evaluations: int = Field(8, ge=0)
    save_every_steps: int = Field(200, ge=1)
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed"
    teacher_precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    data_workers: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> DistillSettings:
        if (self.epochs is None) == (self.max_minutes is None):
            raise ValueError("give exactly one of epochs and max_minutes: it decides when the run ends")
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} cannot be cut into {self.accumulate} equal passes (accumulate)")
        if self.cached and self.smallest_crop < 1:
            raise ValueError(
                f"smallest_crop {self.smallest_crop} with a cache: each crop needs an embedding of its own; use whole "
                "pictures (1) or let the teacher run along (no cache)"
            )
        return self

    @property
    def orientations(self) -> int:
        """In how many of the eight flips and quarter turns a picture is shown."""
        return 8 if self.turns else 1


def parse_corruption(text: str, patch_px: int = PATCH_PX) -> CorruptionSettings:
    """`adaptive`, `adaptive:COST`, `none`, or fixed levels as NOISE:MASK, such as 0.1:0.2; else `InputError`."""
    first, _, second = text.partition(":")
    values: dict[str, object] = {"patch_px": patch_px}
    if first == "adaptive":
        values |= {"mode": "adaptive"} | ({"target_cost": second} if second else {})
    elif text == "none":
        values |= {"mode": "none"}
    else:
        values |= {"mode": "fixed", "spread": False, "noise": first, "mask": second}
    try:
        return CorruptionSettings.model_validate(values)
    except ValidationError as error:
        raise InputError(
            f"corruption {text!r} in patches of {patch_px} px: expected adaptive, adaptive:COST with a cost between 0 "
            "and 1, none, or NOISE:MASK with noise in 0..2 and a mask ratio in 0..0.9, as in 0.1:0.2; patches of at "
            "least 4 px"
        ) from error
