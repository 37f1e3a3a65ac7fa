"""Somebody else's ONNX network in ONNX Runtime on the CPU, with its own settings, to be timed beside a bundle.

Read is only what it must be fed: one image. What it answers with is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from rs4d_edge.errors import ClosedError, InputError, RuntimeFailure
from rs4d_edge.runtimes.contract import Array, check_file, check_threads

CHANNELS = 3
_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(uint8)": np.dtype(np.uint8),
}


class ImageInput(NamedTuple):
    """The one input of a network: (1, 3, H, W) if `channels_first`, else (1, H, W, 3); `size_hw` in pixels."""

    name: str
    dtype: np.dtype[Any]
    channels_first: bool
    size_hw: tuple[int, int]


class ImageModel:
    """An ONNX file in a session of its own. Sides that the file leaves open are those of `size_hw`.

    `InputError` for a file that is not there or takes something else than one image, `RuntimeFailure` for one that
    does not load.
    """

    def __init__(self, path: Path, size_hw: tuple[int, int], *, threads: int | None = None) -> None:
        check_file(path)
        check_threads(threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0: as many as the machine has physical cores
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no public base class
            raise RuntimeFailure(f"onnxruntime cannot load {path}: {error}") from error
        inputs = [(each.name, each.type, each.shape) for each in session.get_inputs()]
        self.path = path
        self.input = image_input(path, inputs, size_hw)
        self._session: onnxruntime.InferenceSession | None = session

    def run(self, image: Array) -> None:
        """Run once on an array as `input` says."""
        if self._session is None:
            raise ClosedError("this onnxruntime session was closed; open another")
        try:
            self._session.run(None, {self.input.name: image})
        except Exception as error:
            raise RuntimeFailure(
                f"{self.path} does not run on an image of {image.shape} {image.dtype}: {error}"
            ) from error

    def close(self) -> None:
        """Let go of the model."""
        self._session = None


def image_input(
    path: Path, inputs: Sequence[tuple[str, str, Sequence[int | str | None]]], size_hw: tuple[int, int]
) -> ImageInput:
    """What a network with these inputs (name, type, shape) must be fed; sides left open are those of `size_hw`."""
    wanted = f"a peer takes one image, (1, {CHANNELS}, H, W) or (1, H, W, {CHANNELS})"
    if len(inputs) != 1:
        names = ", ".join(f"{name} {kind}" for name, kind, _ in inputs) or "none"
        raise InputError(f"{path} has {len(inputs)} inputs ({names}): {wanted}; export it with the image alone")
    ((name, kind, shape),) = inputs
    if kind not in _DTYPES:
        raise InputError(f"{path} takes {name!r} as {kind}: {wanted}, of {', '.join(_DTYPES)}")
    if len(shape) != 4:
        raise InputError(f"{path} takes {name!r} of shape {list(shape)}: {wanted}")
    batch, *rest = shape
    if isinstance(batch, int) and batch != 1:
        raise InputError(f"{path} takes {batch} images at once: {wanted}; export it with a batch of 1 or an open one")
    if CHANNELS not in (rest[0], rest[2]):
        raise InputError(
            f"{path} takes {name!r} of shape {list(shape)}, where neither the second nor the last dimension is the "
            f"{CHANNELS} colours: {wanted}; export it with the colours' dimension fixed"
        )
    channels_first = rest[0] == CHANNELS
    sides = rest[1:] if channels_first else rest[:2]
    height, width = (
        side if isinstance(side, int) and side > 0 else own for side, own in zip(sides, size_hw, strict=True)
    )
    return ImageInput(name, _DTYPES[kind], channels_first, (height, width))
