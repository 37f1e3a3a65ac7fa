"""From unlabelled pictures to batches: the student's frame, and the teacher's frame or its cached maps.

Position p of the endless sequence of epochs decides everything about a sample, orientation and crop included, so a
resumed run needs no more than its step, and processes share a batch by taking their part of its positions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rs4d_edge.errors import DataError, FrameError
from rs4d_edge.frames import Frame, read_image
from rs4d_edge.training.batches import ORDER_STREAM, SAMPLE_STREAM
from rs4d_edge.training.embedding_cache import EmbeddingCache, Entry
from rs4d_edge.training.teachers import Preprocessing
from rs4d_edge.training.unlabelled import UnlabelledImage, UnlabelledImages

CORRUPTION_STREAM = 3
_SEEDS = 1 << 30  # torch's generator on the CPU reads 32 bits, of which one tells noise from masks


class DistillBatch(NamedTuple):
    """One process's part of a step.

    frame (B, S, S, 3) uint8 RGB and valid_hw (B, 2) are the student's; `seeds` drive its corruption. `teacher_frame`
    (B, T, T, 3) with `teacher_valid_hw` is what the teacher has to see, or `maps` what it saw (float16, (B, c, h, w)).
    """

    frame: Tensor
    valid_hw: Tensor
    seeds: tuple[int, ...]
    teacher_frame: Tensor | None
    teacher_valid_hw: Tensor | None
    maps: tuple[Tensor, ...] | None

    def part(self, start: int, count: int) -> DistillBatch:
        """Samples start to start + count."""
        rows = slice(start, start + count)
        return DistillBatch(
            self.frame[rows],
            self.valid_hw[rows],
            self.seeds[rows],
            None if self.teacher_frame is None else self.teacher_frame[rows],
            None if self.teacher_valid_hw is None else self.teacher_valid_hw[rows],
            None if self.maps is None else tuple(each[rows] for each in self.maps),
        )


class _Drawn(NamedTuple):
    """What is shown at a position: picture, orientation, the generator of a crop, the seed of the corruption."""

    image: UnlabelledImage
    orientation: int
    crop: np.random.Generator | None
    seed: int


class SampleMaker:
    """Makes samples and batches of one data set; calls from several threads do not disturb each other."""

    def __init__(
        self,
        images: UnlabelledImages,
        student: Preprocessing,
        teacher: Preprocessing,
        cache: EmbeddingCache | None,
        *,
        seed: int,
        orientations: int,
        smallest_crop: float,
    ) -> None:
        self._images = images.images
        self._student, self._teacher, self._cache = student, teacher, cache
        self._seed, self._orientations, self._smallest_crop = seed, orientations, smallest_crop

    def batch(self, first: int, count: int) -> DistillBatch:
        """Samples at positions first to first + count."""
        return self._collate([self._drawn(position) for position in range(first, first + count)])

    def frames(self, first: int, count: int) -> DistillBatch:
        """The same pictures as `batch`, for the student alone."""
        samples = [self._drawn(position) for position in range(first, first + count)]
        frame, valid_hw = _stacked([self._student.frame(self._shown(sample)) for sample in samples])
        return DistillBatch(frame, valid_hw, tuple(sample.seed for sample in samples), None, None, None)

    def plain(self, first: int, count: int) -> DistillBatch:
        """Pictures first to first + count of the list as they are, for measuring."""
        return self._collate([_Drawn(self._images[i], 0, None, 0) for i in range(first, first + count)])

    def _drawn(self, position: int) -> _Drawn:
        epoch, place = divmod(position, len(self._images))
        image = self._images[_order(self._seed, epoch, len(self._images))[place]]
        rng = np.random.default_rng([self._seed, SAMPLE_STREAM, position])
        orientation = int(rng.integers(self._orientations))
        seed = np.random.default_rng([self._seed, CORRUPTION_STREAM, position]).integers(_SEEDS)
        return _Drawn(image, orientation, rng if self._smallest_crop < 1 else None, int(seed))

    def _shown(self, sample: _Drawn) -> Frame:
        """The picture as a sample shows it, in its own size."""
        picture = oriented(read_rgb(sample.image), sample.orientation)
        return picture if sample.crop is None else _cropped(picture, self._smallest_crop, sample.crop)

    def _collate(self, samples: list[_Drawn]) -> DistillBatch:
        pictures = [self._shown(sample) for sample in samples]
        frame, valid_hw = _stacked([self._student.frame(picture) for picture in pictures])
        seeds = tuple(sample.seed for sample in samples)
        if self._cache is None:
            return DistillBatch(frame, valid_hw, seeds, *_stacked([self._teacher.frame(p) for p in pictures]), None)
        entries = [self._cache.read(Entry(sample.image.sha256, sample.orientation)) for sample in samples]
        maps = tuple(torch.stack(column) for column in zip(*entries, strict=True))
        return DistillBatch(frame, valid_hw, seeds, None, None, maps)


def read_rgb(image: UnlabelledImage) -> Frame:
    """The picture as RGB uint8 (h, w, 3). DataError where it can no longer be read."""
    try:
        bgr = read_image(image.path)
    except FrameError as error:
        raise DataError(f"{error}; it could be read when the run was started: put it back, or start anew") from error
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def oriented(image: Frame, orientation: int) -> Frame:
    """One of eight: `orientation` % 4 quarter turns anticlockwise, from 4 on after a flip from left to right."""
    flipped = image[:, ::-1] if orientation >= 4 else image
    return np.ascontiguousarray(np.rot90(flipped, orientation % 4))


def _cropped(image: Frame, smallest: float, rng: np.random.Generator) -> Frame:
    """A random window, the same share of both sides, at least one pixel."""
    share = rng.uniform(smallest, 1.0)
    rows, columns = (max(round(side * share), 1) for side in image.shape[:2])
    top, left = int(rng.integers(image.shape[0] - rows + 1)), int(rng.integers(image.shape[1] - columns + 1))
    return image[top : top + rows, left : left + columns]


def _stacked(frames: list[tuple[Frame, tuple[int, int]]]) -> tuple[Tensor, Tensor]:
    return (
        torch.from_numpy(np.stack([frame for frame, _ in frames])),
        torch.tensor([valid_hw for _, valid_hw in frames], dtype=torch.int64),
    )


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of the pictures in an epoch; remembered, because each sample of the epoch asks for it."""
    return np.random.default_rng([seed, ORDER_STREAM, epoch]).permutation(count)
