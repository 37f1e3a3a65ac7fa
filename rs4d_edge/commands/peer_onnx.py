"""`rs4d-bench --peer MODEL.onnx`: any network that takes one image, in ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rs4d_edge.bench.uninterpreted import ImageFeed, UninterpretedPath
from rs4d_edge.bundle import sha256_of
from rs4d_edge.frames import Frame
from rs4d_edge.runtimes.contract import Array
from rs4d_edge.runtimes.onnxruntime_peer import ImageModel

ABOUT = (
    "Any network of one image, in ONNX Runtime with its own settings. The frame is resized and padded as for a bundle, "
    "and floats are scaled to 0..1; what the network answers is not interpreted, so decoding and suppression that "
    "stand outside of the file are not in the time."
)


class OnnxNetwork:
    """Follows `rs4d_edge.bench.uninterpreted.Network`."""

    def __init__(self, path: Path, size_hw: tuple[int, int], threads: int | None) -> None:
        self._model = ImageModel(path, size_hw, threads=threads)
        wanted = self._model.input
        self.size_hw = wanted.size_hw
        self._feed = ImageFeed(wanted.size_hw, wanted.dtype, channels_first=wanted.channels_first)

    def prepare(self, batch: Frame) -> object:
        """See `Network.prepare`."""
        return self._feed(batch)

    def infer(self, feed: object) -> None:
        """See `Network.infer`."""
        image: Array = np.asarray(feed)
        self._model.run(image)

    def close(self) -> None:
        """See `Network.close`."""
        self._model.close()

    def input_text(self) -> str:
        """Type and layout of the input, for a record."""
        wanted = self._model.input
        return f"{wanted.dtype} {'NCHW' if wanted.channels_first else 'NHWC'}"


def open_path(path: Path, size_hw: tuple[int, int], threads: int | None) -> UninterpretedPath:
    """Frames through the file; `size_hw` is for sides that it leaves open."""
    return UninterpretedPath(OnnxNetwork(path, size_hw, threads))


def describe(path: Path, size_hw: tuple[int, int]) -> dict[str, Any]:
    """What the file takes, after one frame through it. `InputError` or `RuntimeFailure` for one that cannot be fed."""
    network = OnnxNetwork(path, size_hw, None)
    with UninterpretedPath(network) as frames:
        frames.run(np.zeros((*network.size_hw, 3), np.uint8))
    return {
        "model": path.name,
        "runtime": "onnxruntime",
        "precision": "as in its file",
        "input_hw": list(network.size_hw),
        "input": network.input_text(),
        "file_sha256": sha256_of(path),
        "weights": "those of the file",
        "about": ABOUT,
    }
