"""Frames at the border: what a frame must look like, and how image files become frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from rs4d_edge.errors import FrameError, InputError

Frame = npt.NDArray[np.uint8]
ColorOrder = Literal["RGB", "BGR"]
COLOR_ORDERS: tuple[ColorOrder, ...] = ("RGB", "BGR")
MAX_SIDE = 1 << 16  # pixels; a longer side is a swapped axis or a broken header, not a picture
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


def check_color(color: str) -> ColorOrder:
    """`color` as a known channel order; anything else raises `InputError`."""
    for known in COLOR_ORDERS:
        if color == known:
            return known
    raise InputError(f"color {color!r} is unknown: say 'RGB' or 'BGR', the order of the frame's channels")


def check_frame(frame: Any) -> Frame:
    """The frame itself if it is a uint8 array (height, width, 3) of a sensible size; otherwise `FrameError`."""
    if not isinstance(frame, np.ndarray):
        raise FrameError(f"the frame is a {type(frame).__name__}: expected a numpy array uint8 (height, width, 3)")
    if frame.dtype != np.uint8:
        raise FrameError(
            f"the frame's dtype is {frame.dtype}: expected uint8 in 0..255; scale it yourself, "
            "because a range guessed from the values would change from frame to frame"
        )
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise FrameError(f"the frame's shape is {frame.shape}: expected (height, width, 3)" + _shape_advice(frame))
    height, width = frame.shape[:2]
    if height == 0 or width == 0:
        raise FrameError(f"the frame is empty: {height} rows, {width} columns")
    if max(height, width) > MAX_SIDE:
        raise FrameError(f"the frame is {height}x{width}: more than {MAX_SIDE} pixels on a side; cut it into tiles")
    return frame


def _shape_advice(frame: npt.NDArray[Any]) -> str:
    if frame.ndim == 2:
        return "; repeat the grey channel three times with np.repeat(frame[..., None], 3, axis=2)"
    if frame.ndim == 3 and frame.shape[0] == 3:
        return "; channels come last here: frame.transpose(1, 2, 0)"
    if frame.ndim == 3 and frame.shape[2] == 4:
        return "; drop the fourth channel: frame[..., :3]"
    if frame.ndim == 4:
        return "; give one frame of the batch at a time"
    return ""


def read_image(path: Path) -> Frame:
    """Read an image file as uint8 (height, width, 3) in **BGR** order, for `Predictor.run(..., color="BGR")`.

    Grey images are repeated over the three channels, a fourth (alpha) channel is dropped, 16-bit values are divided by
    257 (65535 becomes 255: the same for every image, never stretched by content), and EXIF orientation is ignored, so
    that pixel coordinates are those of the stored raster. Other depths and unreadable files raise `FrameError`.
    """
    try:
        encoded = np.fromfile(path, dtype=np.uint8)  # unlike cv2.imread, takes any file name on any system
    except OSError as error:
        raise FrameError(f"{path} cannot be read: {error.strerror or error}") from error
    if encoded.size == 0:
        raise FrameError(f"{path} is empty (0 bytes)")
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(encoded, flags)
    except cv2.error as error:
        raise FrameError(f"{path} cannot be decoded: {error}") from error
    if image is None:
        raise FrameError(f"{path} is not an image that OpenCV can decode, or it is damaged")
    return _as_bgr8(np.asarray(image), path)


def _as_bgr8(image: npt.NDArray[Any], path: Path) -> Frame:
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise FrameError(f"{path} holds {image.dtype} values: expected 8 or 16 bits per channel; convert it first")
    if image.ndim == 2 or image.shape[2] == 1:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.shape[2] == 2:
        image = cv2.cvtColor(np.ascontiguousarray(image[..., 0]), cv2.COLOR_GRAY2BGR)  # grey with alpha
    if image.shape[2] not in (3, 4):
        raise FrameError(f"{path} has {image.shape[2]} channels: expected 1, 2 (with alpha), 3 or 4")
    bgr: Frame = np.ascontiguousarray(image[..., :3], dtype=np.uint8)
    return check_frame(bgr)
