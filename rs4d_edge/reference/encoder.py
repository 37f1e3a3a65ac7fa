"""`RSMamba`, the state-space image encoder of RS4D: one row-major token per 16x16 pixels, linear in their number.

Source: Chen et al., "Efficient Remote Sensing Instance Segmentation with Linear-Time State Space Distilled Visual
Foundation Models" (arXiv 2606.25324). One LayerNorm (`pre_norm`) is shared by all layers, as published.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import EncoderConfig, PathType
from rs4d_edge.reference.mixer import Mixer
from rs4d_edge.reference.stem import ConvStem, PatchEmbed

_NORM_EPS = 1e-6


class EncoderMaps(NamedTuple):
    """What necks and heads read.

    `layers`: each layer's output (B, h, w, C) at stride 16; the last one is normalised by `ln1`, the others are the raw
    residual stream. `stem`: the convolutional stem's maps (B, c, H/4, W/4) and (B, c, H/8, W/8); empty without a stem.
    """

    layers: tuple[Tensor, ...]
    stem: tuple[Tensor, ...]


def resize_position_embedding(embedding: Tensor, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Tensor:
    """Bicubic resize of (1, h*w, C) position embeddings from one grid of tokens to another, as published."""
    grid = embedding.transpose(1, 2).reshape(1, -1, *from_hw)  # (1, C, h, w)
    grid = functional.interpolate(grid, size=to_hw, mode="bicubic", align_corners=False)
    return grid.flatten(2).transpose(1, 2)


class RSMamba(nn.Module):
    """The encoder; module names give the published keys (`pos_embed`, `patch_embed`, `layers.i`, `pre_norm`, `ln1`)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        channels, rows_columns = config.channels, config.grid_hw
        self.pos_embed = nn.Parameter(torch.zeros(1, rows_columns[0] * rows_columns[1], channels))
        self.stem = None if config.stem_channels is None else ConvStem(config.stem_channels, config.stem_blocks)
        self.patch_embed = PatchEmbed(config)
        self.layers = nn.ModuleList(Mixer(config) for _ in range(config.depth))
        self.gate_layers = nn.ModuleList()
        if config.path is PathType.FORWARD_REVERSE_GATE:
            self.gate_layers.extend(
                nn.Sequential(nn.Linear(2 * channels, 2, bias=False), nn.Softmax(dim=-1)) for _ in range(config.depth)
            )
        self.pre_norm = nn.LayerNorm(channels, eps=_NORM_EPS)
        self.ln1 = nn.LayerNorm(channels, eps=_NORM_EPS)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, image: Tensor) -> EncoderMaps:
        """Encode a normalised RGB image (B, 3, H, W), H and W multiples of 16 (any such size, see `position`)."""
        self._check_size(image)
        stem = () if self.stem is None else self.stem(image)
        patches = self.patch_embed(stem[-1] if stem else image)  # (B, C, h, w)
        grid_hw = (patches.shape[2], patches.shape[3])
        x = patches.flatten(2).transpose(1, 2) + self.position(grid_hw)  # (B, L, C)
        maps = []
        for i, layer in enumerate(self.layers):
            x = x + layer(self.pre_norm(x), self.gate_layers[i] if self.gate_layers else None)
            kept = self.ln1(x) if i == len(self.layers) - 1 else x
            maps.append(kept.reshape(kept.shape[0], *grid_hw, -1))
        return EncoderMaps(tuple(maps), tuple(stem))

    def position(self, grid_hw: tuple[int, int]) -> Tensor:
        """Position embedding (1, h*w, C) for a grid of tokens; resized on the fly when it is stored for another."""
        if grid_hw == self.config.grid_hw:
            return self.pos_embed
        return resize_position_embedding(self.pos_embed, self.config.grid_hw, grid_hw)

    @torch.no_grad()
    def resize_position_embedding_(self, image_size_hw: tuple[int, int]) -> None:
        """Store the position embedding for another input size in pixels; afterwards nothing is resized at run time.

        Changes `pos_embed` and `config`. Raises pydantic's ValidationError unless both are multiples of the patch.
        """
        fields = self.config.model_dump() | {"image_size_hw": image_size_hw}
        config = EncoderConfig.model_validate(fields)
        self.pos_embed = nn.Parameter(self.position(config.grid_hw).detach().clone())
        self.config = config

    def _check_size(self, image: Tensor) -> None:
        patch = self.config.patch_size
        if image.dim() != 4 or image.shape[1] != 3 or image.shape[2] % patch or image.shape[3] % patch:
            raise InputError(
                f"image {tuple(image.shape)}: expected (batch, 3, height, width) with both sides multiples of {patch}; "
                "pad it at the bottom and the right"
            )
