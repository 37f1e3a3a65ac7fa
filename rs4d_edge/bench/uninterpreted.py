"""The frame path of a network whose answers nobody reads: a frame in, its time out."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rs4d_edge.detections import Detections
from rs4d_edge.frames import Frame, check_frame
from rs4d_edge.resize import FrameResizer
from rs4d_edge.timing import StageTimings, Stopwatch


class Network(Protocol):
    """What is timed. `size_hw` is its input in pixels."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Rows and columns of its input."""
        ...

    def prepare(self, batch: Frame) -> object:
        """What it is fed, of one resized and padded frame uint8 (1, H, W, 3) RGB, which is overwritten later."""
        ...

    def infer(self, feed: object) -> None:
        """Run once."""
        ...

    def close(self) -> None:
        """Give its memory back."""
        ...


class UninterpretedPath:
    """Follows `rs4d_edge.bench.streams.FramePath`. `resize_ms` is until the network can be fed; nothing is found.

    The frame is resized by the rule that bundles follow (keeping its ratio, padded), so that this costs all the same.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._resizer = FrameResizer(network.size_hw)

    def run(self, frame: Frame, /) -> Detections:
        """No detections in a frame (H, W, 3) uint8 RGB, with how long the network took."""
        frame = check_frame(frame)
        watch = Stopwatch()
        self._resizer(frame, "RGB")
        feed = self._network.prepare(self._resizer.batch)
        resize_ms = watch.lap_ms()
        self._network.infer(feed)
        infer_ms = watch.lap_ms()
        return Detections(
            boxes_xyxy=np.empty((0, 4), np.float32),
            scores=np.empty(0, np.float32),
            labels=np.empty(0, np.int64),
            masks=[],
            classes=("none",),
            size_hw=(frame.shape[0], frame.shape[1]),
            timings=StageTimings(resize_ms=resize_ms, infer_ms=infer_ms),
        )

    def __enter__(self) -> UninterpretedPath:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._network.close()


class ImageFeed:
    """uint8 (1, H, W, 3) RGB to the array that a network wants: colours first or last, bytes or floats from 0 to 1."""

    def __init__(self, size_hw: tuple[int, int], dtype: npt.DTypeLike, *, channels_first: bool) -> None:
        self._order = (0, 3, 1, 2) if channels_first else (0, 1, 2, 3)
        shape = (1, 3, *size_hw) if channels_first else (1, *size_hw, 3)
        self._array = np.empty(shape, dtype)

    def __call__(self, batch: Frame) -> npt.NDArray[np.generic]:
        """The same array at each call, written anew."""
        pixels = batch.transpose(self._order)
        if self._array.dtype == np.uint8:
            np.copyto(self._array, pixels)
        else:
            np.multiply(pixels, self._array.dtype.type(1 / 255), out=self._array, casting="unsafe")
        return self._array
