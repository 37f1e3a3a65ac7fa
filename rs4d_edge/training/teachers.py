"""What a teacher is: pictures in, maps out. `open_teacher` finds out which kind a path holds.

Map order everywhere in distillation: the embedding first, then the chosen layers in the order of their depth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from rs4d_edge.errors import InputError
from rs4d_edge.frames import Frame
from rs4d_edge.reference.config import IMAGE_MEAN_RGB, IMAGE_STD_RGB
from rs4d_edge.resize import fit

_CV2_FILTERS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


class Preprocessing(BaseModel):
    """From a picture to a network's input: longest side to `side`, padded at the bottom and right, normalised.

    `mean_rgb` and `std_rgb` are in 0..255. `antialias` widens the filter where a picture shrinks, as Pillow does;
    without it this is the resize of the device library.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: int = Field(ge=16)
    mean_rgb: tuple[float, float, float] = IMAGE_MEAN_RGB
    std_rgb: tuple[float, float, float] = IMAGE_STD_RGB
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    antialias: bool = False

    def frame(self, image: Frame) -> tuple[Frame, tuple[int, int]]:
        """RGB uint8 (h, w, 3) to the padded square (side, side, 3), and the rows and columns that hold picture."""
        geometry = fit((image.shape[0], image.shape[1]), (self.side, self.side))
        rows, columns = geometry.valid_hw
        padded = np.zeros((self.side, self.side, 3), np.uint8)
        padded[:rows, :columns] = self._resized(image, rows, columns)
        return padded, (rows, columns)

    def _resized(self, image: Frame, rows: int, columns: int) -> NDArray[Any]:
        if image.shape[:2] == (rows, columns):
            return image
        if not self.antialias:
            return np.asarray(cv2.resize(image, (columns, rows), interpolation=_CV2_FILTERS[self.resample]))
        planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        small = functional.interpolate(planes, size=(rows, columns), mode=self.resample, antialias=True)
        return small[0].permute(1, 2, 0).numpy()


def normalise(frame: Tensor, valid_hw: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 (B, H, W, 3) RGB to fp32 (B, 3, H, W) by mean and deviation; exactly 0 outside the picture."""
    mean, std = (torch.tensor(x, device=frame.device) for x in (preprocessing.mean_rgb, preprocessing.std_rgb))
    inside = picture_mask(valid_hw.to(frame.device), (frame.shape[1], frame.shape[2]), 1)
    return torch.where(inside[..., None], (frame.float() - mean) / std, 0.0).permute(0, 3, 1, 2)


def picture_mask(valid_hw: Tensor, grid_hw: tuple[int, int], stride: int) -> Tensor:
    """(B, h, w) of bool: whether the centre of a cell of `stride` pixels lies in the picture's `valid_hw` (B, 2)."""
    rows, columns = (
        (torch.arange(count, device=valid_hw.device) + 0.5) * stride < valid_hw[:, axis, None]
        for axis, count in enumerate(grid_hw)
    )
    return rows[:, :, None] & columns[:, None, :]


def normalised_channels(layer: Tensor) -> Tensor:
    """(B, c, h, w) with mean 0 and deviation 1 over each cell's channels.

    Layers in the middle of a network are raw residual streams: a few channels are hundreds of times larger than the
    rest and would be all that an L1 loss sees.
    """
    return functional.layer_norm(layer.permute(0, 2, 3, 1).float(), (layer.shape[1],)).permute(0, 3, 1, 2)


class Teacher(Protocol):
    """Gives maps of clean pictures; never trained."""

    @property
    def name(self) -> str:
        """For people: the file's or the folder's name."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of everything that its maps depend on: weights and configuration."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """What it wants to see."""
        ...

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Cells of its maps."""
        ...

    @property
    def channels(self) -> int:
        """Width of its embedding."""
        ...

    @property
    def layer_channels(self) -> int:
        """Width of its layers."""
        ...

    @property
    def depth(self) -> int:
        """How many layers it has."""
        ...

    def move_to(self, device: torch.device) -> None:
        """Moves its weights."""
        ...

    def embed(self, image: Tensor, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """Maps (B, c, h, w) in fp32 of normalised images (B, 3, side, side): the embedding, then the layers asked for.

        Layers come through `normalised_channels`. Nothing is recorded for gradients.
        """
        ...


def spread_layers(depth: int, count: int) -> tuple[int, ...]:
    """`count` layers spread evenly over a network, the last one, of which the embedding is made, not among them."""
    chosen = tuple(round(depth * (i + 1) / (count + 1)) - 1 for i in range(count))
    if len(set(chosen)) < count or (chosen and not 0 <= chosen[0] <= chosen[-1] < depth - 1):
        raise InputError(
            f"{count} maps before the last one of an encoder of {depth} layers: expected at most about {depth // 2}; "
            "ask for fewer"
        )
    return chosen


def weights_fingerprint(state: Mapping[str, Tensor], configuration: str) -> str:
    """SHA-256 over the configuration and every weight's name, type, shape and bytes, in the order of the names."""
    digest = hashlib.sha256(configuration.encode())
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def open_teacher(source: str | Path) -> Teacher:
    """The teacher at a path: a folder is a SAM of Hugging Face's, a file or a shipped name one of our checkpoints.

    Raises InputError, CheckpointError or RuntimeUnavailable (transformers is not installed), each with what to do.
    """
    from rs4d_edge.training.encoder_teacher import open_encoder_teacher
    from rs4d_edge.training.sam_teacher import open_sam_teacher

    path = Path(source)
    return open_sam_teacher(path) if path.is_dir() else open_encoder_teacher(source)
