"""From a data set to batches of tensors: a fixed order per epoch, decoded images kept, the next batches made ahead.

Batch k of a run depends on the seed, k and the size alone: a resumed run needs no saved data position.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from rs4d_edge.errors import DataError
from rs4d_edge.reference.targets import Target
from rs4d_edge.training.augment import AugmentConfig, Image, Sample, Source, augment
from rs4d_edge.training.instances import ImageRecord, InstanceDataset

ORDER_STREAM, SAMPLE_STREAM = 1, 2  # keep the random numbers of the order and of the samples apart

Made = TypeVar("Made")


class Batch(NamedTuple):
    """frame (B, S, S, 3) uint8 RGB, valid_hw (B, 2) int64 and one target per image."""

    frame: Tensor
    valid_hw: Tensor
    targets: list[Target]


class ImageCache:
    """Decoded images by record, RGB uint8, shrunk once to at most `max_side`; beyond `budget_bytes` decoded anew.

    Two threads may decode the same image at the same time: wasteful once, never wrong.
    """

    def __init__(self, max_side: int, budget_bytes: int = 4 << 30) -> None:
        self.max_side = max_side
        self.budget_bytes = budget_bytes
        self._held: dict[object, Source] = {}
        self._bytes = 0

    def __call__(self, record: ImageRecord) -> Source:
        """The record's image, decoded at the first call. It is shared: read it only."""
        held = self._held.get(record.path)
        if held is not None:
            return held
        source = read_source(record, self.max_side)
        if self._bytes + source.image.nbytes <= self.budget_bytes:
            self._bytes += source.image.nbytes
            self._held[record.path] = source
        return source


def read_source(record: ImageRecord, max_side: int) -> Source:
    """Decodes one image as RGB and shrinks it to `max_side`. `DataError` where it is unreadable or of another size."""
    data = cv2.imread(str(record.path), cv2.IMREAD_COLOR)
    if data is None:
        raise DataError(f"cannot read the image {record.path}")
    height, width = data.shape[:2]
    if (height, width) != record.size_hw:
        raise DataError(f"{record.path} is {height}x{width}, its annotations are for {record.size_hw}")
    image: Image = np.asarray(cv2.cvtColor(data, cv2.COLOR_BGR2RGB), np.uint8)
    longest = max(height, width)
    if longest > max_side:
        new_width, new_height = round(width * max_side / longest), round(height * max_side / longest)
        image = np.asarray(cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA), np.uint8)
    return Source(record, image, (image.shape[1] / width, image.shape[0] / height))


class BatchMaker:
    """Makes batch k of a run. Epoch e visits every image once, in an order that the seed and e decide."""

    def __init__(self, dataset: InstanceDataset, batch: int, seed: int, cache: ImageCache) -> None:
        if not dataset.records:
            raise DataError(f"the data set {dataset.name} is empty")
        self.dataset = dataset
        self.batch = batch
        self.seed = seed
        self.cache = cache

    def sample(self, position: int, size: int, config: AugmentConfig) -> Sample:
        """The sample at a position of the endless sequence of epochs."""
        count = len(self.dataset.records)
        epoch, place = divmod(position, count)
        first = int(np.random.default_rng([self.seed, ORDER_STREAM, epoch]).permutation(count)[place])
        rng = np.random.default_rng([self.seed, SAMPLE_STREAM, position])
        waiting = [first]

        def draw() -> Source:
            index = waiting.pop() if waiting else int(rng.integers(count))
            return self.cache(self.dataset.records[index])

        return augment(draw, size, config, rng)

    def __call__(self, step: int, size: int, config: AugmentConfig) -> Batch:
        """Batch number `step` at (size, size)."""
        return collate([self.sample(step * self.batch + i, size, config) for i in range(self.batch)])


def collate(samples: list[Sample]) -> Batch:
    """Stacks samples of one size."""
    return Batch(
        torch.from_numpy(np.stack([sample.frame for sample in samples])),
        torch.from_numpy(np.stack([sample.valid_hw for sample in samples])),
        [
            Target(torch.from_numpy(sample.boxes), torch.from_numpy(sample.labels), torch.from_numpy(sample.masks))
            for sample in samples
        ],
    )


class Prefetcher(Generic[Made]):
    """Makes the next batches in background threads; OpenCV and NumPy release the interpreter while they work.

    `plan(step)` gives what `make` takes besides the step (`BatchMaker`: size and augmentation), or None past the end;
    it is asked `depth` steps ahead.
    """

    def __init__(
        self,
        make: Callable[..., Made],
        plan: Callable[[int], tuple[Any, ...] | None],
        first_step: int,
        *,
        workers: int = 1,
        depth: int = 3,
    ) -> None:
        self._make, self._plan, self._next = make, plan, first_step
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="rs4d-data")
        self._queue: deque[Future[Made]] = deque()
        self._depth = depth
        self.waited_s = 0.0

    def next(self) -> Made:
        """The batch of the next step; the time spent waiting for it is added to `waited_s`."""
        self._fill()
        if not self._queue:
            raise StopIteration
        start = time.perf_counter()
        batch = self._queue.popleft().result()
        self.waited_s += time.perf_counter() - start
        self._fill()
        return batch

    def _fill(self) -> None:
        while len(self._queue) < self._depth:
            planned = self._plan(self._next)
            if planned is None:
                return
            self._queue.append(self._pool.submit(self._make, self._next, *planned))
            self._next += 1

    def close(self) -> None:
        """Drops what was made ahead and ends the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
