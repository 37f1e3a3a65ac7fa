"""`RS4D`: a frame in, boxes, scores, labels and masks out, with fixed shapes throughout.

`forward` has no shape and no branch that depends on the data, so torch.export traces it as it is: selection is top-k
and masks of scores; two operations that cannot be written so are custom ops (`rs4d::nms_keep`, `rs4d::roi_align`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rs4d_edge.contract import MaskKind, ModelContract
from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import IMAGE_MEAN_RGB, IMAGE_STD_RGB, DetectorConfig, HeadType
from rs4d_edge.reference.encoder import EncoderMaps, RSMamba
from rs4d_edge.reference.losses import LossSettings, proposal_losses, region_losses
from rs4d_edge.reference.neck import build_neck
from rs4d_edge.reference.roi_stage import MaskContext, RoIHead
from rs4d_edge.reference.rpn import RPNHead
from rs4d_edge.reference.sam_decoder import SharedImageEmbedding
from rs4d_edge.reference.sine_encoding import ExtraPositions
from rs4d_edge.reference.targets import Target


class RawDetections(NamedTuple):
    """D = `max_detections` rows an image, best first, padded with zeros.

    `boxes` (B, D, 4) fp32 xyxy in network-input pixels, `scores` (B, D), `labels` (B, D) int64, `masks` probabilities:
    (B, D, 28, 28) over each box (`bbox`) or (B, D, H/4, W/4) over the input (`prompt`).
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor


class RS4D(nn.Module):
    """A whole detector; module names give the keys of published checkpoints."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = RSMamba(config.encoder)
        self.neck = build_neck(config)
        self.rpn_head = RPNHead(config)
        self.roi_head = RoIHead(config)
        self.extra_pe: ExtraPositions | None = None
        self.shared_image_embedding: SharedImageEmbedding | None = None
        if config.head is HeadType.PROMPT:
            height, width = config.encoder.image_size_hw
            sizes = [(-(-height // stride), -(-width // stride)) for stride in config.proposals.strides]
            self.extra_pe = ExtraPositions(config.neck.channels, sizes)
            self.shared_image_embedding = SharedImageEmbedding(config.encoder.channels)
        self.register_buffer("pixel_mean", torch.tensor(IMAGE_MEAN_RGB), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(IMAGE_STD_RGB), persistent=False)

    @property
    def contract(self) -> ModelContract:
        """What this model takes and gives, for a batch of one."""
        prompt = self.config.head is HeadType.PROMPT
        return ModelContract(
            image_size_hw=self.config.encoder.image_size_hw,
            mean_rgb=IMAGE_MEAN_RGB,
            std_rgb=IMAGE_STD_RGB,
            classes=self.config.classes,
            head="prompt" if prompt else "bbox",
            mask_kind=MaskKind.FRAME if prompt else MaskKind.ROI,
            score_threshold=self.config.score_threshold,
            nms_iou=self.config.nms_iou,
            max_detections=self.config.max_detections,
        )

    def forward(self, frame: Tensor, valid_hw: Tensor) -> RawDetections:
        """Detect in `frame` uint8 (B, H, W, 3) RGB, resized and padded.

        `valid_hw` int64 (B, 2) are the rows and columns that hold image. Raises InputError for another shape or dtype.
        """
        maps, levels, size_hw = self._pyramid(frame, valid_hw)
        proposals = self.rpn_head.propose(self.rpn_head(levels), size_hw)
        levels = self._placed(levels)
        found = self.roi_head.detect(levels, proposals.boxes, size_hw)
        masks = self.roi_head.masks(levels, found, *self._context(maps))
        return RawDetections(*found, masks)

    def losses(
        self,
        frame: Tensor,
        valid_hw: Tensor,
        targets: list[Target],
        *,
        settings: LossSettings | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Training losses, scalars in fp32 to be added up: `rpn_cls`, `rpn_box`, `cls`, `box`, `mask`.

        `targets` has one entry per image, in network-input pixels, possibly empty. `generator` (on the CPU) draws the
        samples; `settings` default to those of the configuration's family.
        """
        if len(targets) != frame.shape[0]:
            raise InputError(f"{len(targets)} targets for a batch of {frame.shape[0]} images: give one per image")
        settings = settings or LossSettings.of(self.config)
        maps, levels, size_hw = self._pyramid(frame, valid_hw)
        rpn_maps = self.rpn_head(levels)
        with torch.no_grad():
            proposals = self.rpn_head.propose(rpn_maps, size_hw)
        result = proposal_losses(rpn_maps, torch.cat(self.rpn_head.anchors(rpn_maps)), targets, settings, generator)
        result |= region_losses(
            self.roi_head, self._placed(levels), proposals.boxes, targets, self._context(maps), settings, generator
        )
        return result

    def features(self, frame: Tensor, valid_hw: Tensor) -> dict[str, Tensor]:
        """Intermediate results by name, in the order in which they are computed: for parity checks and bisection."""
        maps, levels, size_hw = self._pyramid(frame, valid_hw)
        rpn_maps = self.rpn_head(levels)
        proposals = self.rpn_head.propose(rpn_maps, size_hw)
        placed = self._placed(levels)
        pooled = self.roi_head.pool(placed, proposals.boxes, self.config.roi.box_size)
        logits, deltas = self.roi_head.bbox_head(pooled)
        found = self.roi_head.bbox_head.select(proposals.boxes, logits, deltas, size_hw)
        result = {"normalised": self.normalise(frame, valid_hw)}
        result |= {f"stem.{i}": x for i, x in enumerate(maps.stem)}
        result |= {f"encoder.{i}": x for i, x in enumerate(maps.layers)}
        result |= {f"neck.{i}": x for i, x in enumerate(levels)}
        result |= {f"rpn_cls.{i}": x for i, x in enumerate(rpn_maps.cls)}
        result |= {f"rpn_reg.{i}": x for i, x in enumerate(rpn_maps.reg)}
        result |= {"proposals": proposals.boxes, "proposal_scores": proposals.scores}
        result |= {"roi_features": pooled, "class_logits": logits, "box_deltas": deltas}
        result |= {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}
        return result | {"masks": self.roi_head.masks(placed, found, *self._context(maps))}

    def normalise(self, frame: Tensor, valid_hw: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) RGB -> fp32 (B, 3, H, W) of mean 0 and deviation 1; exactly 0 outside the image."""
        channels_first = frame.permute(0, 3, 1, 2)  # while they are bytes: a quarter of the traffic
        scaled = (channels_first.float() - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None]
        rows = torch.arange(frame.shape[1], device=frame.device)[None, None, :, None] < valid_hw[:, 0, None, None, None]
        columns = (
            torch.arange(frame.shape[2], device=frame.device)[None, None, None, :] < valid_hw[:, 1, None, None, None]
        )
        return torch.where(rows & columns, scaled, 0.0)

    def _pyramid(self, frame: Tensor, valid_hw: Tensor) -> tuple[EncoderMaps, tuple[Tensor, ...], tuple[int, int]]:
        self._check(frame, valid_hw)
        maps: EncoderMaps = self.backbone(self.normalise(frame, valid_hw))
        levels: tuple[Tensor, ...] = self.neck(maps)
        return maps, levels, (frame.shape[1], frame.shape[2])

    def _placed(self, levels: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The levels as the RoI stage reads them: the prompt variant adds positions."""
        if self.extra_pe is None:
            return levels
        placed: tuple[Tensor, ...] = self.extra_pe(levels)
        return placed

    def _context(self, maps: EncoderMaps) -> MaskContext:
        """What the mask head reads besides the levels."""
        embedding = maps.layers[-1].permute(0, 3, 1, 2)
        positions = None
        if self.shared_image_embedding is not None:
            positions = self.shared_image_embedding((embedding.shape[2], embedding.shape[3]))
        return MaskContext(embedding, positions, maps.stem[0] if self.config.roi.detail_channels else None)

    def _check(self, frame: Tensor, valid_hw: Tensor) -> None:
        multiple = self.config.encoder.patch_size
        if frame.dtype != torch.uint8 or frame.dim() != 4 or frame.shape[3] != 3:
            raise InputError(
                f"frame {tuple(frame.shape)} {frame.dtype}: expected (batch, height, width, 3) torch.uint8 RGB"
            )
        if frame.shape[1] % multiple or frame.shape[2] % multiple:
            raise InputError(f"frame {tuple(frame.shape)}: pad height and width to multiples of {multiple}")
        if valid_hw.dtype != torch.int64 or valid_hw.shape != (frame.shape[0], 2):
            raise InputError(
                f"valid_hw {tuple(valid_hw.shape)} {valid_hw.dtype}: expected ({frame.shape[0]}, 2) torch.int64"
            )
