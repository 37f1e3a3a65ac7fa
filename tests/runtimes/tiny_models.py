"""Models of a few operators whose answers numpy can give, in the form that all runtimes take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rs4d_edge.contract import ModelContract
from rs4d_edge.reference.scan import selective_scan

Array = npt.NDArray[Any]
SIZE_HW = (6, 4)
CONTRACT = ModelContract(image_size_hw=SIZE_HW, classes=("a", "b"), max_detections=2, batch=2)
STEP, DECAY = 0.5, (0.25, 3.0)


def feeds(seed: int) -> dict[str, Array]:
    """Random pixels and valid sizes."""
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (2, *SIZE_HW, 3), dtype=np.uint8)
    return {"frame": frame, "valid_hw": rng.integers(1, 5, (2, 2), dtype=np.int64)}


class Sums(nn.Module):
    """Means of pixels, valid sizes and constants: every output type, no operator of ours."""

    contract = CONTRACT

    def forward(self, frame: Tensor, valid_hw: Tensor) -> tuple[Tensor, ...]:
        """Boxes (mean red, mean green, mean blue, valid area); scores (0.5, valid rows / 10); labels (columns, 7)."""
        means = frame.float().mean(dim=(1, 2)) / 255
        area = (valid_hw[:, 0] * valid_hw[:, 1]).float()
        box = torch.cat((means, area[:, None]), dim=1)
        boxes = torch.stack((box, box * 2), dim=1)
        scores = torch.stack((torch.full_like(area, 0.5), valid_hw[:, 0] / 10), dim=1)
        labels = torch.stack((valid_hw[:, 1], torch.full_like(valid_hw[:, 1], 7)), dim=1)
        return boxes, scores, labels, means[:, :2, None, None].expand(-1, -1, 28, 28)

    @staticmethod
    def answer(given: Mapping[str, Array]) -> dict[str, Array]:
        """The same in numpy."""
        means = given["frame"].mean(axis=(1, 2)) / 255
        valid = given["valid_hw"]
        box = np.concatenate([means, valid.prod(axis=1, keepdims=True)], axis=1)
        scores = np.stack([np.full(2, 0.5), valid[:, 0] / 10], axis=1)
        labels = np.stack([valid[:, 1], np.full(2, 7)], axis=1)
        masks = np.broadcast_to(means[:, :2, None, None], (2, 2, 28, 28))
        return {"boxes": np.stack([box, box * 2], axis=1), "scores": scores, "labels": labels, "masks": masks}


class Scans(nn.Module):
    """A scan over the frame's rows in each direction: 3 colour channels, 2 states, and an answer by recurrence."""

    contract = CONTRACT

    def forward(self, frame: Tensor, valid_hw: Tensor) -> tuple[Tensor, ...]:
        """Boxes: the outputs of rows 0 and 5, scanned forwards; scores: of row 0, scanned backwards."""
        u = frame.float().mean(dim=2) / 255  # (B, rows, 3)
        delta = torch.full_like(u, STEP)
        a = -torch.tensor(DECAY).expand(3, 2).contiguous()
        b = u[:, :, :2].contiguous()
        c = torch.ones_like(b)
        d = torch.tensor([1.0, 2.0, 3.0])
        ahead = selective_scan(u, delta, a, b, c, d)
        back = selective_scan(u, delta, a, b, c, d, reverse=True)
        boxes = torch.nn.functional.pad(torch.stack((ahead[:, 0], ahead[:, 5]), dim=1), (0, 1))
        masks = back[:, :2, :1, None].expand(-1, -1, 28, 28)
        return boxes, back[:, 0, :2], valid_hw, masks

    @staticmethod
    def answer(given: Mapping[str, Array]) -> dict[str, Array]:
        """The same in numpy, token by token."""
        u = given["frame"].mean(axis=2) / 255
        ahead, back = _scan(u), _scan(u[:, ::-1])[:, ::-1]
        boxes = np.pad(np.stack([ahead[:, 0], ahead[:, 5]], axis=1), ((0, 0), (0, 0), (0, 1)))
        masks = np.broadcast_to(back[:, :2, :1, None], (2, 2, 28, 28))
        return {"boxes": boxes, "scores": back[:, 0, :2], "labels": given["valid_hw"], "masks": masks}


def _scan(u: Array) -> Array:
    state = np.zeros((2, 3, 2))
    rows = []
    for row in range(u.shape[1]):
        x = u[:, row]  # (B, 3)
        state = np.exp(-STEP * np.array(DECAY)) * state + STEP * x[:, :, None] * x[:, None, :2]
        rows.append(state.sum(axis=2) + x * np.array([1.0, 2.0, 3.0]))
    return np.stack(rows, axis=1)
