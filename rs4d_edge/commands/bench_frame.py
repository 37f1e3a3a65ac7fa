"""The frame that rs4d-bench runs on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from rs4d_edge.bundle import Bundle
from rs4d_edge.errors import InputError
from rs4d_edge.frames import Frame, read_image


def frame_for(bundle: Bundle, path: Path | None) -> Frame:
    """The image at `path`, else the bundle's first golden frame: uint8 (H, W, 3), RGB."""
    if path is not None:
        image: Frame = cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        return image
    golden = bundle.golden()
    if not golden:
        raise InputError(f"{bundle.path} holds no golden frame: name an image with --frame")
    return golden[0][0]
