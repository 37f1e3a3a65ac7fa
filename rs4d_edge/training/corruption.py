"""What the student alone sees: its picture with additive noise and with patches taken away.

Every sample draws from a generator of its own, seeded by run and position, so that neither the number of processes nor
the way in which a batch is cut changes what a picture looks like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rs4d_edge.errors import InputError

NOISE_STREAM, MASK_STREAM, SPREAD_STREAM = 0, 1, 2  # so that a change of one level leaves the other's draw as it is


class Levels(NamedTuple):
    """Deviation of the noise in units of the normalised image's deviation, and the share of patches that are hidden."""

    noise: float
    mask: float


def corrupt(
    image: Tensor, valid_hw: Tensor, levels: Levels, seeds: Sequence[int], *, patch_px: int, spread: bool = False
) -> Tensor:
    """A spoiled copy of normalised images (B, 3, S, S) whose top left `valid_hw` (B, 2), on the CPU, hold picture.

    `seeds` has one number per image. Patches lie on a grid of `patch_px`; of those that touch the picture, a share of
    `levels.mask` (rounded to whole patches) becomes 0, the mean colour. Padding stays exactly 0, as at inference. With
    `spread` every image draws its own noise and its own share, evenly between 0 and the levels.
    Raises InputError where the grid does not divide the image.
    """
    side_hw = (image.shape[2], image.shape[3])
    if side_hw[0] % patch_px or side_hw[1] % patch_px:
        raise InputError(f"patches of {patch_px} px do not divide an image of {side_hw}; use a divisor of its sides")
    spoiled = image.clone()
    for sample, (rows, columns), seed in zip(spoiled, valid_hw.tolist(), seeds, strict=True):
        noise, mask = spread_levels(levels, seed) if spread else levels
        picture = sample[:, :rows, :columns]  # a view: what is written to it is written to the sample
        if noise > 0:
            generator = _generator(image.device, seed, NOISE_STREAM)
            picture += noise * torch.randn(picture.shape, generator=generator, device=image.device)
        if mask > 0:
            grid_hw = (-(-rows // patch_px), -(-columns // patch_px))
            hidden = _hidden_patches(grid_hw, mask, _generator(image.device, seed, MASK_STREAM))
            pixels = hidden.repeat_interleave(patch_px, 0).repeat_interleave(patch_px, 1)[:rows, :columns]
            picture.masked_fill_(pixels, 0.0)
    return spoiled


def spread_levels(levels: Levels, seed: int) -> Levels:
    """The levels of one image, each drawn evenly between 0 and what is given."""
    shares = np.random.default_rng([seed, SPREAD_STREAM]).random(2)
    return Levels(levels.noise * float(shares[0]), levels.mask * float(shares[1]))


def _hidden_patches(grid_hw: tuple[int, int], ratio: float, generator: torch.Generator) -> Tensor:
    """(h, w) of bool with round(ratio * h * w) patches True, all choices equally likely."""
    cells = grid_hw[0] * grid_hw[1]
    order = torch.rand(cells, generator=generator, device=generator.device).argsort()
    hidden = torch.zeros(cells, dtype=torch.bool, device=generator.device)
    hidden[order[: round(ratio * cells)]] = True
    return hidden.view(grid_hw)


def _generator(device: torch.device, seed: int, stream: int) -> torch.Generator:
    return torch.Generator(device=device).manual_seed(2 * seed + stream)
