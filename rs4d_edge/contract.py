"""What a model takes and gives: the agreement between an exported graph, its bundle and the Predictor.

Graph inputs: `frame` uint8 (B, H, W, 3) in `color_order`, already resized and padded; `valid_hw` int64 (B, 2), the rows
and columns of it that hold image rather than padding. Graph outputs, D = `max_detections`: `boxes` float32 (B, D, 4)
xyxy in pixels of the network's input, `scores` float32 (B, D) sorted downwards and padded with 0, `labels` int64 (B, D)
indices into `classes`, `masks` float32 (B, D, h, w) probabilities, whose meaning is `mask_kind`.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

INPUT_NAMES = ("frame", "valid_hw")
OUTPUT_NAMES = ("boxes", "scores", "labels", "masks")
ROI_MASK_SIZE = 28
FRAME_MASK_STRIDE = 4


class MaskKind(str, Enum):
    """What one mask map covers."""

    ROI = "roi"  # (28, 28) probabilities over the detection's own box
    FRAME = "frame"  # (H / 4, W / 4) probabilities over the whole padded network input


class ModelContract(BaseModel):
    """Input, output and post-processing of one model; immutable, stored in every bundle's manifest.

    `image_size_hw` is the size of the network's input in pixels; `mean_rgb` and `std_rgb` are in 0..255 units and are
    applied inside the graph. Detections below `score_threshold` are already cut inside the graph.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    image_size_hw: tuple[int, int]
    color_order: Literal["RGB"] = "RGB"
    mean_rgb: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std_rgb: tuple[float, float, float] = (58.395, 57.12, 57.375)
    resize_rule: Literal["fit_bilinear_pad_bottom_right"] = "fit_bilinear_pad_bottom_right"
    classes: tuple[str, ...] = Field(min_length=1)
    head: Literal["bbox", "prompt"] = "bbox"
    mask_kind: MaskKind = MaskKind.ROI
    score_threshold: float = Field(0.05, ge=0.0, lt=1.0)
    nms_iou: float = Field(0.5, gt=0.0, le=1.0)
    max_detections: int = Field(100, ge=1)
    batch: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _parts_fit(self) -> ModelContract:
        if min(self.image_size_hw) < 1:
            raise ValueError(f"image_size_hw {self.image_size_hw} must be positive")
        expected = MaskKind.FRAME if self.head == "prompt" else MaskKind.ROI
        if self.mask_kind is not expected:
            raise ValueError(f"head {self.head!r} gives masks of kind {expected.value!r}, not {self.mask_kind.value!r}")
        if min(self.std_rgb) <= 0:
            raise ValueError(f"std_rgb {self.std_rgb} must be positive")
        return self

    @property
    def mask_size_hw(self) -> tuple[int, int]:
        """Rows and columns of one mask map in the graph's `masks` output."""
        if self.mask_kind is MaskKind.ROI:
            return ROI_MASK_SIZE, ROI_MASK_SIZE
        return self.image_size_hw[0] // FRAME_MASK_STRIDE, self.image_size_hw[1] // FRAME_MASK_STRIDE

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each graph input by name."""
        return {"frame": (self.batch, *self.image_size_hw, 3), "valid_hw": (self.batch, 2)}

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each graph output by name."""
        rows = (self.batch, self.max_detections)
        return {"boxes": (*rows, 4), "scores": rows, "labels": rows, "masks": (*rows, *self.mask_size_hw)}
