"""Drawing detections onto a frame, with numpy and OpenCV alone."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rs4d_edge.frames import ColorOrder, Frame
from rs4d_edge.masks import MaskCrop

FONT = cv2.FONT_HERSHEY_SIMPLEX
GOLDEN_ANGLE = 0.618033988749895  # of a full turn of hue: neighbours in the list end up far apart
FILL_OPACITY = 0.4
Color = tuple[int, int, int]


def class_color(label: int, color: ColorOrder = "RGB") -> Color:
    """A bright colour for a class, the same for every frame, in the frame's channel order."""
    lightness = (0.55, 0.42, 0.66)[(label // 8) % 3]
    red, green, blue = colorsys.hls_to_rgb((0.02 + label * GOLDEN_ANGLE) % 1.0, lightness, 0.95)
    rgb = (round(red * 255), round(green * 255), round(blue * 255))
    return rgb if color == "RGB" else (rgb[2], rgb[1], rgb[0])


def draw_masks(canvas: Frame, masks: Iterable[tuple[MaskCrop, Color]]) -> None:
    """Fill each mask translucently and draw its outline, in place, touching only the mask's crop."""
    thickness = line_width(canvas)
    for crop, color in masks:
        rows, columns = crop.bits.shape
        if rows == 0 or columns == 0:
            continue
        window = canvas[crop.top : crop.top + rows, crop.left : crop.left + columns]
        tint = np.multiply(color, FILL_OPACITY)
        window[crop.bits] = (window[crop.bits] * (1 - FILL_OPACITY) + tint).astype(np.uint8)
        outlines, _ = cv2.findContours(
            crop.bits.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(crop.left, crop.top)
        )
        cv2.drawContours(canvas, outlines, -1, color, thickness, cv2.LINE_AA)


def draw_boxes(canvas: Frame, boxes_xyxy: npt.NDArray[np.float32], texts: list[str], colors: list[Color]) -> None:
    """Draw each box (xyxy, pixels of the frame) with its text above it (or inside, at the frame's top), in place."""
    thickness = line_width(canvas)
    for (x0, y0, x1, y1), color in zip(np.rint(boxes_xyxy).astype(int).tolist(), colors, strict=True):
        cv2.rectangle(canvas, (x0, y0), (x1, y1), color, thickness, cv2.LINE_AA)
    labels = list(zip(np.rint(boxes_xyxy).astype(int).tolist(), texts, colors, strict=True))
    for (x0, y0, _, _), text, color in reversed(labels):  # the best come first, and are to lie on top
        _draw_label(canvas, text, x0, y0, color)


def line_width(canvas: npt.NDArray[Any]) -> int:
    """Width of lines in pixels that suits the size of the frame."""
    return max(1, round(int(max(canvas.shape[:2])) / 800))


def _draw_label(canvas: Frame, text: str, left: int, bottom: int, color: Color) -> None:
    height, width = canvas.shape[:2]
    scale = min(max(max(height, width) / 1600, 0.35), 3.0)
    weight = max(1, round(scale * 1.4))
    (text_width, text_height), below = cv2.getTextSize(text, FONT, scale, weight)
    pad = max(2, round(scale * 4))
    box_height, box_width = text_height + below + 2 * pad, text_width + 2 * pad
    left = max(0, min(left, width - box_width))
    top = bottom - box_height if bottom >= box_height else bottom
    top = max(0, min(top, height - box_height))
    cv2.rectangle(canvas, (left, top), (left + box_width, top + box_height), color, cv2.FILLED)
    # Green carries most of the brightness, and lies in the middle of either channel order.
    brightness = 0.2 * color[0] + 0.6 * color[1] + 0.2 * color[2]
    ink = (0, 0, 0) if brightness > 110 else (255, 255, 255)
    cv2.putText(canvas, text, (left + pad, top + pad + text_height), FONT, scale, ink, weight, cv2.LINE_AA)
