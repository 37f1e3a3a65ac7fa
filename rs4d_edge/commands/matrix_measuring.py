"""What `rs4d-bench --matrix` measures of bundles: accuracy through the runtime, and times in turns."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from rs4d_edge.detections import Detections
from rs4d_edge.errors import DataError, InputError, RuntimeUnavailable
from rs4d_edge.evaluation.images_folder import images_beside
from rs4d_edge.frames import Frame, check_frame, read_image
from rs4d_edge.predictor import Predictor

WARM_UP_ROUNDS = 3
PAUSE_S = 0.03  # threads of one engine that spin for more work after a call have gone to sleep by then
FRAMES = 8


@dataclass(frozen=True)
class EvaluationData:
    """A COCO file, the folder of its images, and how many these are; `frames` are a few of them, from end to end."""

    annotations: Path
    images_dir: Path
    images: int
    frames: tuple[Path, ...]


class FrameTimer(Protocol):
    """What timing needs of a Predictor."""

    def run(self, frame: Frame, /) -> Detections:
        """Detections in a frame (H, W, 3) uint8 RGB, with how long they took."""


def open_data(annotations: Path | None, images_dir: Path | None) -> EvaluationData:
    """Check the data before anything long begins.

    InputError without a file, RuntimeUnavailable without the package that evaluates, DataError for what is malformed or
    missing. The images are by default in `images` beside the file, or beside it.
    """
    if annotations is None:
        raise InputError("--matrix measures accuracy: give --data with a COCO annotation file")
    try:
        importlib.import_module("rs4d_edge.evaluation.coco")  # used later; a device without its package is told now
        from rs4d_edge.training.datasets import missing_images_message, read_annotations, split_by_presence
    except ModuleNotFoundError as error:
        raise RuntimeUnavailable(
            f"--matrix measures accuracy with the package {error.name}, which is not installed: "
            "pip install faster-coco-eval"
        ) from error
    folder = images_dir or images_beside(annotations)
    images = read_annotations(annotations)["images"]
    present, absent = split_by_presence(images, folder)
    if absent:
        raise DataError(missing_images_message(annotations, folder, absent, len(images)))
    if not present:
        raise DataError(f"{annotations} lists no image: there is nothing to measure on")
    places = sorted({round(place) for place in np.linspace(0, len(present) - 1, min(FRAMES, len(present)))})
    frames = tuple(folder / present[place]["file_name"] for place in places)
    return EvaluationData(annotations, folder, len(present), frames)


def evaluate_bundle(
    bundle: Path, data: EvaluationData, threads: int, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """The figures of rs4d-eval."""
    from rs4d_edge.evaluation.coco import evaluate

    with Predictor(bundle, threads=threads) as predictor:
        return evaluate(predictor, data.annotations, data.images_dir, progress)


def time_in_turns(
    bundles: Mapping[str, Path], frames: Sequence[Path], threads: int, runs: int
) -> dict[str, list[float]]:
    """Milliseconds, end to end, of `runs` runs of each bundle by its name, all open in this process at once."""
    images = [_read_rgb(path) for path in frames]
    with contextlib.ExitStack() as opened:
        return take_turns(
            {name: opened.enter_context(Predictor(path, threads=threads)) for name, path in bundles.items()},
            images,
            runs,
        )


def take_turns(
    predictors: Mapping[str, FrameTimer], frames: Sequence[Frame], runs: int, pause_s: float = PAUSE_S
) -> dict[str, list[float]]:
    """The times of each predictor's runs, one frame a round, so that what disturbs the machine disturbs all of them.

    Every second round goes backwards, so that nobody always follows the same other one. Warm-up rounds are not counted.
    """
    forwards = list(predictors)
    times: dict[str, list[float]] = {name: [] for name in forwards}
    for turn in range(WARM_UP_ROUNDS + runs):
        for name in forwards if turn % 2 == 0 else reversed(forwards):
            time.sleep(pause_s)
            took = predictors[name].run(frames[turn % len(frames)]).timings.total_ms
            if turn >= WARM_UP_ROUNDS:
                times[name].append(took)
    return times


def _read_rgb(path: Path) -> Frame:
    return check_frame(cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB))
