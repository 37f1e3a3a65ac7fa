"""Fitting a frame into the network's input, and the way back.

The published rule (mmdetection's `Resize(keep_ratio=True)` and `Pad`): scale = min(H / h, W / w), new side =
int(side * scale + 0.5), bilinear, padding at the bottom and on the right. Rounding makes the two axes' factors differ
slightly, so that each is measured on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from rs4d_edge.frames import ColorOrder, Frame

Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a frame of `frame_hw` lies in a network input of `input_hw`: its top left `valid_hw` pixels."""

    frame_hw: tuple[int, int]
    input_hw: tuple[int, int]
    valid_hw: tuple[int, int]

    @property
    def factors_yx(self) -> tuple[float, float]:
        """Network pixels per frame pixel, measured per axis."""
        return self.valid_hw[0] / self.frame_hw[0], self.valid_hw[1] / self.frame_hw[1]

    def to_frame(self, boxes_xyxy: npt.NDArray[np.floating]) -> Boxes:
        """Boxes (n, 4) in pixels of the network's input, as float32 in pixels of the frame; not clipped."""
        factor_y, factor_x = self.factors_yx
        divisor = np.array([factor_x, factor_y, factor_x, factor_y])
        boxes: Boxes = (boxes_xyxy.astype(np.float64) / divisor).astype(np.float32)
        return boxes

    def to_input(self, boxes_xyxy: npt.NDArray[np.floating]) -> Boxes:
        """Boxes (n, 4) in pixels of the frame, as float32 in pixels of the network's input."""
        factor_y, factor_x = self.factors_yx
        factors = np.array([factor_x, factor_y, factor_x, factor_y])
        boxes: Boxes = (boxes_xyxy.astype(np.float64) * factors).astype(np.float32)
        return boxes


def fit(frame_hw: tuple[int, int], input_hw: tuple[int, int]) -> Geometry:
    """Geometry of a frame in a network input, by the published rule.

    A frame so narrow that its short side would vanish keeps one pixel of it.
    """
    scale = min(input_hw[0] / frame_hw[0], input_hw[1] / frame_hw[1])
    rows, columns = (
        min(max(int(side * scale + 0.5), 1), limit) for side, limit in zip(frame_hw, input_hw, strict=True)
    )
    return Geometry(frame_hw=frame_hw, input_hw=input_hw, valid_hw=(rows, columns))


class FrameResizer:
    """Resizes frames into one buffer, uint8 (B, H, W, 3) RGB, that is allocated once and overwritten by each call."""

    def __init__(self, input_hw: tuple[int, int], batch: int = 1) -> None:
        self.input_hw = input_hw
        self.batch: Frame = np.zeros((batch, *input_hw, 3), dtype=np.uint8)
        self._valid_hw = [(0, 0)] * batch

    def __call__(self, frame: Frame, color: ColorOrder, slot: int = 0) -> Geometry:
        """Write the frame (checked, uint8 (h, w, 3), in `color` order) into `batch[slot]`, padded with 0.

        The colour is converted after the resize, on the small image (bilinear weights are the same for every channel).
        """
        height, width = frame.shape[:2]
        geometry = fit((height, width), self.input_hw)
        rows, columns = geometry.valid_hw
        if geometry.valid_hw != self._valid_hw[slot]:
            self.batch[slot, rows:] = 0
            self.batch[slot, :rows, columns:] = 0
            self._valid_hw[slot] = geometry.valid_hw
        if frame.strides[2] == -1:  # `image[..., ::-1]`: undo the view rather than copy the big frame
            frame, color = frame[..., ::-1], ("BGR" if color == "RGB" else "RGB")
        window = self.batch[slot, :rows, :columns]
        if (rows, columns) == (height, width):
            np.copyto(window, frame)
        else:
            cv2.resize(frame, (columns, rows), dst=window, interpolation=cv2.INTER_LINEAR)
        if color == "BGR":
            cv2.cvtColor(window, cv2.COLOR_BGR2RGB, dst=window)
        return geometry
