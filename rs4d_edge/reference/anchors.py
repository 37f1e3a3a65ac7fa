"""Anchor boxes of the region proposal network."""

from __future__ import annotations

import torch
from torch import Tensor

from rs4d_edge.reference.config import ProposalConfig


def base_anchors(stride: int, config: ProposalConfig, device: torch.device | None = None) -> Tensor:
    """Anchors (A, 4) around the origin for one stride, in pixels; ratios (height / width) outermost."""
    root = torch.tensor(config.ratios, dtype=torch.float32, device=device).sqrt()[:, None]
    scales = torch.tensor(config.scales, dtype=torch.float32, device=device)[None, :]
    half_width = (stride * (1 / root) * scales).reshape(-1) * 0.5
    half_height = (stride * root * scales).reshape(-1) * 0.5
    return torch.stack((-half_width, -half_height, half_width, half_height), dim=1)


def level_anchors(size_hw: tuple[int, int], stride: int, config: ProposalConfig, device: torch.device) -> Tensor:
    """Anchors (h*w*A, 4) of a level of `size_hw` cells, rows outermost, then columns, then anchors.

    They are centred on (x*stride, y*stride), the cells' corners, as in the published model.
    """
    height, width = size_hw
    y = torch.arange(height, dtype=torch.float32, device=device) * stride
    x = torch.arange(width, dtype=torch.float32, device=device) * stride
    y, x = y[:, None].expand(height, width), x[None, :].expand(height, width)
    shifts = torch.stack((x, y, x, y), dim=-1)
    return (shifts[:, :, None, :] + base_anchors(stride, config, device)).reshape(-1, 4)
