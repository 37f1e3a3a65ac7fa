"""Frames to compare and to calibrate with: an image folder, a COCO file or drawn scenes, fed as the Predictor feeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from rs4d_edge.errors import DataError, InputError
from rs4d_edge.frames import IMAGE_SUFFIXES, Frame, check_frame, read_image
from rs4d_edge.resize import FrameResizer, Geometry

_FIRST_SEED = 20_260  # the scenes of an export are always the same ones
_SCENE_SHAPES = (
    (1.0, 1.0),
    (0.75, 1.0),
    (1.0, 0.625),
)  # of the input's height and width: square, wide and tall padding
_LEAST_SIDE = 64  # below this a scene is too small to hold anything


class PreparedBatch(NamedTuple):
    """`feeds` for one run of a graph; `geometries` of the frames in its first rows, the first of which is `first`."""

    first: int
    feeds: dict[str, npt.NDArray[Any]]
    geometries: tuple[Geometry, ...]


def scene_frames(count: int, input_hw: tuple[int, int]) -> list[Frame]:
    """`count` drawn scenes, uint8 (h, w, 3) RGB, about as large as an input of `input_hw` pixels; always the same."""
    from rs4d_edge.scenes import generate_scene

    frames = []
    for index in range(count):
        rows, columns = _SCENE_SHAPES[index % len(_SCENE_SHAPES)]
        size_hw = (max(_LEAST_SIDE, int(input_hw[0] * rows)), max(_LEAST_SIDE, int(input_hw[1] * columns)))
        frames.append(generate_scene(_FIRST_SEED + index, size_hw).image)
    return frames


def load_frames(source: Path, count: int) -> list[Frame]:
    """At most `count` frames, uint8 (h, w, 3) RGB, of an image file, a folder of images, or a COCO file.

    Taken at even distances through the sorted names, so that a long recording is seen from end to end. A COCO file's
    images lie beside it or in `images` beside it. Raises DataError if there is none.
    """
    paths = image_paths(source)
    if not paths:
        raise DataError(
            f"{source} names no image; give an image, a folder ({', '.join(IMAGE_SUFFIXES)}) or a COCO file"
        )
    chosen = sorted({round(position) for position in np.linspace(0, len(paths) - 1, min(count, len(paths)))})
    return [check_frame(cv2.cvtColor(read_image(paths[index]), cv2.COLOR_BGR2RGB)) for index in chosen]


def image_paths(source: Path) -> list[Path]:
    """The images that `source` (an image, a folder, a COCO file) names, sorted."""
    if source.is_dir():
        return sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not source.is_file():
        raise DataError(f"there are no frames at {source}; give an image, a folder of images, or a COCO file")
    if source.suffix.lower() == ".json":
        return _coco_paths(source)
    return [source]


def prepare(frames: Sequence[Frame], input_hw: tuple[int, int], batch: int = 1) -> Iterator[PreparedBatch]:
    """Feeds of a graph for `frames` (RGB), `batch` at a time; the last is filled up with its first frame again."""
    if not frames:
        raise InputError("no frame was given; give at least one")
    for first in range(0, len(frames), batch):
        resizer = FrameResizer(input_hw, batch)
        own = [check_frame(frame) for frame in frames[first : first + batch]]
        filled = [*own, *[own[0]] * (batch - len(own))]
        geometries = [resizer(frame, "RGB", slot) for slot, frame in enumerate(filled)]
        valid_hw = np.array([geometry.valid_hw for geometry in geometries], dtype=np.int64)
        yield PreparedBatch(first, {"frame": resizer.batch, "valid_hw": valid_hw}, tuple(geometries[: len(own)]))


def _coco_paths(annotations: Path) -> list[Path]:
    try:
        names = [str(image["file_name"]) for image in json.loads(annotations.read_text(encoding="utf-8"))["images"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{annotations} is not a COCO annotation file: {type(error).__name__} {error}") from error
    folders = (annotations.parent, annotations.parent / "images")
    return sorted(_in_one_of(folders, name, annotations) for name in names)


def _in_one_of(folders: Sequence[Path], name: str, annotations: Path) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{annotations} names {name}, which is in none of {', '.join(map(str, folders))}")
