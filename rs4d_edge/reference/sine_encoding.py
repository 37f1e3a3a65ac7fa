"""The sine positional encoding that the prompt variant adds to the pyramid before its RoI stage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.errors import RS4DError

TEMPERATURE = 10000.0
EPS = 1e-6


def sine_axis(size: int, features: int) -> Tensor:
    """Encoding of one axis: (features, size) float32, sine and cosine alternating (Carion et al., "DETR", 2020).

    Position i is (i + 1) / size * 2 pi: counted from one and normalised, as published.
    """
    position = torch.arange(1, size + 1, dtype=torch.float32) / (size + EPS) * (2 * math.pi)
    pair = torch.arange(features, dtype=torch.float32).div(2, rounding_mode="floor")
    phase = position[None, :] / (TEMPERATURE ** (2 * pair / features))[:, None]
    return torch.where((torch.arange(features) % 2 == 0)[:, None], phase.sin(), phase.cos())


class ExtraPositions(nn.Module):
    """Adds the encoding of the finest level's grid, resized bilinearly, to every level.

    Half of the channels depends on y alone, the other half on x, and bilinear resizing keeps it so. Two small tables
    a level are thus all of it, each zero in the other's half: (C, h, 1) and (C, 1, w), constants of the given sizes.
    """

    def __init__(self, channels: int, level_sizes_hw: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        if channels % 4:
            raise RS4DError(f"the sine encoding needs channels that are a multiple of 4, got {channels}")
        self.channels = channels
        self.level_sizes_hw = tuple(level_sizes_hw)
        for index, (y, x) in enumerate(self._tables(self.level_sizes_hw)):
            self.register_buffer(f"y_{index}", y, persistent=False)
            self.register_buffer(f"x_{index}", x, persistent=False)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Levels (B, C, h, w), finest first -> the same with positions added; other sizes are served too, slower."""
        sizes = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        if sizes == self.level_sizes_hw:
            tables = [(getattr(self, f"y_{i}"), getattr(self, f"x_{i}")) for i in range(len(sizes))]
        else:
            tables = [(y.to(levels[0]), x.to(levels[0])) for y, x in self._tables(sizes)]
        # One sum after the other: y + x would be a table of the level's whole size, 67 MB at stride 4 of 1024x1024.
        return tuple(
            level + y.to(level.dtype) + x.to(level.dtype) for level, (y, x) in zip(levels, tables, strict=True)
        )

    def _tables(self, sizes_hw: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        fine_y = sine_axis(sizes_hw[0][0], self.channels // 2)
        fine_x = sine_axis(sizes_hw[0][1], self.channels // 2)
        tables = []
        for height, width in sizes_hw:
            y, x = _resize(fine_y, height), _resize(fine_x, width)
            tables.append(
                (torch.cat([y, y.new_zeros(y.shape)])[:, :, None], torch.cat([x.new_zeros(x.shape), x])[:, None])
            )
        return tables


def _resize(table: Tensor, size: int) -> Tensor:
    """Linear resizing of (features, n) to (features, size), with the sample centres of bilinear image resizing."""
    return functional.interpolate(table[None], size=size, mode="linear", align_corners=False)[0]
