"""The configuration of an RS4D model: everything that decides its shape and its post-processing.

One immutable object describes the encoder, the neck and the head. It is stored inside our safetensors checkpoints,
is inferred from the shapes of a published checkpoint, and is what a preset names.
"""

from __future__ import annotations

import math
from enum import Enum

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

IMAGE_MEAN_RGB = (123.675, 116.28, 103.53)
IMAGE_STD_RGB = (58.395, 57.12, 57.375)
NWPU_CLASSES = (
    "airplane",
    "ship",
    "storage_tank",
    "baseball_diamond",
    "tennis_court",
    "basketball_court",
    "ground_track_field",
    "harbor",
    "bridge",
    "vehicle",
)


class PathType(str, Enum):
    """In which directions the mixer of a layer reads the tokens."""

    FORWARD = "forward"
    FORWARD_REVERSE_MEAN = "forward_reverse_mean"
    FORWARD_REVERSE_GATE = "forward_reverse_gate"


class HeadType(str, Enum):
    """How masks are made: Mask R-CNN (`bbox`) or SAM's mask decoder prompted by each box (`prompt`)."""

    BBOX = "bbox"
    PROMPT = "prompt"


class NeckType(str, Enum):
    """`simple` is the published aggregator and feature pyramid; `edge` is our top-down pyramid on a conv stem."""

    SIMPLE = "simple"
    EDGE = "edge"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderConfig(_Frozen):
    """Shape of `RSMamba`.

    `image_size_hw` is the input size in pixels that the position embedding is stored for, `channels` the token width C,
    `inner_channels` the mixer's width E, `state_size` N. `stem_channels` holds the widths at strides 2, 4 and 8 of the
    edge family's convolutional stem; None is the published 16x16 patch embedding.
    """

    channels: int = Field(256, ge=8)
    depth: int = Field(24, ge=1)
    inner_channels: int = Field(512, ge=16)
    state_size: int = Field(16, ge=1)
    conv_width: int = Field(4, ge=2)
    patch_size: int = 16
    image_size_hw: tuple[int, int] = (1024, 1024)
    path: PathType = PathType.FORWARD_REVERSE_MEAN
    stem_channels: tuple[int, int, int] | None = None
    stem_blocks: tuple[int, int] = (0, 0)  # residual 3x3 blocks at strides 4 and 8 of the convolutional stem

    @property
    def dt_rank(self) -> int:
        """R, the width of the low-rank projection to the step size: ceil(C / 16)."""
        return math.ceil(self.channels / 16)

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of tokens at `image_size_hw`."""
        return self.image_size_hw[0] // self.patch_size, self.image_size_hw[1] // self.patch_size

    @field_validator("path", mode="before")
    @classmethod
    def _no_shuffled_path(cls, path: object) -> object:
        if isinstance(path, str) and "shuffle" in path:
            raise ValueError(
                f"path {path!r} draws a random permutation of the tokens at each call, so no result can be repeated or "
                f"exported; use one of {', '.join(known.value for known in PathType)}"
            )
        return path

    @model_validator(mode="after")
    def _size_fits(self) -> EncoderConfig:
        height, width = self.image_size_hw
        if height <= 0 or width <= 0 or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image_size_hw {self.image_size_hw} must be positive multiples of the patch size {self.patch_size}"
            )
        return self


class NeckConfig(_Frozen):
    """`layers` are the encoder maps that the published aggregator reads (ignored by the edge neck)."""

    type: NeckType = NeckType.SIMPLE
    layers: tuple[int, ...] = tuple(range(1, 24, 2))
    hidden_channels: int = 32
    channels: int = 256


class ProposalConfig(_Frozen):
    """Anchors and proposal selection of the RPN. Strides and scales in input pixels; ratios are height / width."""

    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    scales: tuple[float, ...] = (8.0,)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    channels: int = 256
    pre_nms: int = 1000
    proposals: int = 1000
    nms_iou: float = 0.7


class RoIConfig(_Frozen):
    """RoI stage.

    `strides` are the pyramid levels that RoIs are pooled from, `finest_scale` the side in pixels of a RoI up to twice
    of which the finest level serves. `detail_channels` is the width of the mask head after its upsampling where it also
    reads the convolutional stem's stride-4 map; 0 is the published head, which does not.
    """

    strides: tuple[int, ...] = (4, 8, 16, 32)
    finest_scale: float = 56.0
    box_size: int = 7
    mask_size: int = 14
    fc_channels: int = 1024
    mask_convs: int = 4
    mask_channels: int = 256
    detail_channels: int = Field(0, ge=0)


class PromptConfig(_Frozen):
    """SAM-prompt head. `tokens` prompt embeddings per RoI; the rest is the shape of SAM's mask decoder."""

    tokens: int = 5
    sincos: bool = False
    decoder_layers: int = 2
    decoder_heads: int = 8
    mlp_channels: int = 2048
    attention_downsample: int = 2
    mask_tokens: int = 4
    iou_head_depth: int = 3
    iou_head_channels: int = 256


class DetectorConfig(_Frozen):
    """A whole RS4D detector."""

    name: str = "custom"
    head: HeadType = HeadType.BBOX
    classes: tuple[str, ...] = NWPU_CLASSES
    encoder: EncoderConfig = EncoderConfig()
    neck: NeckConfig = NeckConfig()
    proposals: ProposalConfig = ProposalConfig()
    roi: RoIConfig = RoIConfig()
    prompt: PromptConfig | None = None
    score_threshold: float = Field(0.05, ge=0.0, lt=1.0)
    nms_iou: float = Field(0.5, gt=0.0, le=1.0)
    max_detections: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _parts_fit(self) -> DetectorConfig:
        if (self.head is HeadType.PROMPT) != (self.prompt is not None):
            raise ValueError(f"head {self.head.value!r} and prompt={self.prompt!r} contradict each other")
        if not self.classes:
            raise ValueError("classes must name at least one class")
        edge = self.neck.type is NeckType.EDGE
        if edge != (self.encoder.stem_channels is not None):
            raise ValueError("the edge neck needs an encoder with a convolutional stem, and the stem needs that neck")
        if self.roi.detail_channels and (not edge or self.head is HeadType.PROMPT):
            raise ValueError("roi.detail_channels needs a convolutional stem and the bbox head")
        too_deep = [layer for layer in self.neck.layers if not edge and layer >= self.encoder.depth]
        if too_deep:
            raise ValueError(f"neck layers {too_deep} do not exist in an encoder of depth {self.encoder.depth}")
        return self
