"""A detector small enough to train within a test, a scene with two objects, and the published detector's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rs4d_edge.reference.config import DetectorConfig, EncoderConfig, NeckConfig, NeckType, ProposalConfig, RoIConfig
from rs4d_edge.reference.targets import Target

SIDE = 96
TINY = DetectorConfig(
    classes=("ship", "tank", "court"),
    encoder=EncoderConfig(
        channels=32,
        depth=2,
        inner_channels=32,
        state_size=4,
        image_size_hw=(SIDE, SIDE),
        stem_channels=(8, 16, 16),
    ),
    neck=NeckConfig(type=NeckType.EDGE, layers=(), channels=32),
    proposals=ProposalConfig(strides=(8, 16, 32, 64), scales=(2.0, 4.0), channels=32, pre_nms=60, proposals=40),
    roi=RoIConfig(strides=(8, 16, 32), fc_channels=64, mask_convs=1, mask_channels=16),
    max_detections=10,
)


def scene(batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor, list[Target]]:
    """Frames of noise with a bright and a dark rectangle; the last eight rows of each are padding."""
    generator = torch.Generator().manual_seed(seed)
    frame = torch.randint(80, 150, (batch, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[10.0, 12.0, 42.0, 36.0], [50.0, 40.0, 74.0, 80.0]])
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    for mask, (left, top, right, bottom), value in zip(masks, boxes.int().tolist(), (240, 10), strict=True):
        mask[top:bottom, left:right] = 1
        frame[:, top:bottom, left:right] = value
    targets = [Target(boxes, torch.tensor([0, 2]), masks) for _ in range(batch)]
    return frame, torch.tensor([[SIDE - 8, SIDE]] * batch), targets


def no_objects() -> Target:
    """The target of an image that shows nothing."""
    return Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, SIDE, SIDE, dtype=torch.uint8))


def published_numbers(folder: Path) -> dict[str, Tensor]:
    """Every array of the published detector's fixture as a tensor, plus `frame` uint8 (1, H, W, 3) RGB."""
    with np.load(folder / "detector_bbox.npz") as stored:
        arrays: dict[str, NDArray[np.generic]] = {name: stored[name] for name in stored.files if name != "meta_json"}
    numbers = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return numbers | {"frame": numbers["image_u8_bgr_hwc"].flip(-1)[None]}
