"""The frames that a quantization is calibrated on, fed as the Predictor feeds, and what tells them from others.

There is no default: ranges measured on noise or on drawn scenes fit neither the weights nor the pictures to come, and
the model that they give looks whole until it is measured.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rs4d_edge.calibration.frames import image_paths, prepare
from rs4d_edge.errors import DataError, InputError
from rs4d_edge.frames import IMAGE_SUFFIXES, Frame, check_frame, read_image

SAMPLES = 300
FEW_SAMPLES = 100  # with fewer, one odd picture moves the ranges and the mean values noticeably
Feeds = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class CalibrationSet:
    """Image files, of which `source` is the name. They are read anew by each pass: 300 large frames are gigabytes."""

    source: str
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def frames(self) -> Iterator[Frame]:
        """Each frame, uint8 (h, w, 3) RGB."""
        for path in self.paths:
            yield check_frame(cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB))

    def feeds(self, input_hw: tuple[int, int], batch: int) -> Iterator[Feeds]:
        """Feeds of a graph whose input is `input_hw` pixels, `batch` frames at a time."""
        held: list[Frame] = []
        for frame in self.frames():
            held.append(frame)
            if len(held) == batch:
                yield next(prepare(held, input_hw, batch)).feeds
                held = []
        if held:
            yield next(prepare(held, input_hw, batch)).feeds

    def digests(self, input_hw: tuple[int, int], batch: int) -> tuple[str, str]:
        """SHA-256 of the frames' pixels, and of all bytes that are fed: another resize changes the second alone."""
        pixels, fed = hashlib.sha256(), hashlib.sha256()
        for frame in self.frames():
            pixels.update(f"{frame.shape}".encode())
            pixels.update(frame.tobytes())
        for feeds in self.feeds(input_hw, batch):
            for name, array in sorted(feeds.items()):
                fed.update(f"{name} {array.dtype} {array.shape}".encode())
                fed.update(array.tobytes())
        return pixels.hexdigest(), fed.hexdigest()


def open_calibration_set(source: Path | None, samples: int = SAMPLES) -> CalibrationSet:
    """At most `samples` images of a folder or a COCO file, at even distances through the sorted names.

    Raises InputError without a source, DataError for one that names no image. Warns of fewer than 100 images.
    """
    if source is None:
        raise InputError(
            "int8 and fp16 need frames to calibrate on: give --calib with a folder of images or a COCO file, a few "
            "hundred pictures like those that the model will see and none of those that it will be judged by"
        )
    if samples < 1:
        raise InputError(f"{samples} calibration samples were asked for; ask for at least one, better {SAMPLES}")
    paths = image_paths(source)
    if not paths:
        raise DataError(f"{source} names no image to calibrate on ({', '.join(IMAGE_SUFFIXES)})")
    places = sorted({round(place) for place in np.linspace(0, len(paths) - 1, min(samples, len(paths)))})
    if len(places) < FEW_SAMPLES:
        warnings.warn(
            f"{len(places)} calibration frames are few: ranges are surer with {FEW_SAMPLES} to {SAMPLES} of them",
            stacklevel=2,
        )
    return CalibrationSet(source.name, tuple(paths[place] for place in places))
