"""Parameters and floating-point operations of a model, counted on shapes alone (nothing is computed or allocated).

A multiplication with its addition counts 2. Counted: convolutions, matrix products and the scan. Not counted, as is
customary: element-wise work, norms, RoIAlign, NMS. The scan of one direction counts, per token, channel and state, 7
(Δ·A, its exponential, Δu·B, the state's update 2, the product with C and its sum 2), and per token and channel 3
(Δ·u, D·u and its sum): L · E · (7 N + 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.detector import RS4D

PARTS = ("backbone", "neck", "rpn_head")  # what is not one of them is the RoI heads'


class Cost(NamedTuple):
    """Size and work of one part for one frame."""

    parameters: int
    flops: int


class ModelCost(NamedTuple):
    """What one frame costs; `heads` are box and mask heads for every proposal and every detection slot."""

    encoder: Cost
    neck: Cost
    rpn: Cost
    heads: Cost
    scan_flops: int  # the part of `encoder.flops` that the scans are

    @property
    def total(self) -> Cost:
        """Parameters and operations of all parts together."""
        parts = (self.encoder, self.neck, self.rpn, self.heads)
        return Cost(sum(part.parameters for part in parts), sum(part.flops for part in parts))


def scan_flops(batch: int, tokens: int, channels: int, states: int) -> int:
    """Operations of one selective scan in one direction; the formula is in the module's text."""
    return batch * tokens * channels * (7 * states + 3)


def _count_scan(
    u_shape: Sequence[int], _delta_shape: Sequence[int], a_shape: Sequence[int], *_: object, **__: object
) -> int:
    return scan_flops(u_shape[0], u_shape[1], u_shape[2], a_shape[1])


def parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(value.numel() for value in module.parameters())


def count(config: DetectorConfig) -> ModelCost:
    """Cost of one frame of the configured size, batch 1."""
    with torch.device("meta"):
        model = RS4D(config).eval()
        frame = torch.empty((1, *config.encoder.image_size_hw, 3), dtype=torch.uint8)
        valid_hw = torch.empty((1, 2), dtype=torch.int64)
    scan = torch.ops.rs4d.selective_scan
    counter = FlopCounterMode(display=False, custom_mapping={scan: _count_scan})
    # While gradients are recorded a mixer is made of the pieces counted here; without, its core is one operator.
    with torch.enable_grad(), counter:
        model(frame, valid_hw)
    by_module = counter.get_flop_counts()
    flops = {part: sum(by_module[f"RS4D.{part}"].values()) for part in PARTS}
    sizes = {part: parameters(model.get_submodule(part)) for part in PARTS}
    heads = Cost(parameters(model) - sum(sizes.values()), counter.get_total_flops() - sum(flops.values()))
    backbone, neck, rpn = (Cost(sizes[part], flops[part]) for part in PARTS)
    return ModelCost(backbone, neck, rpn, heads, by_module["RS4D.backbone"][scan])
