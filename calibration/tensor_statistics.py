"""What values the tensors of a graph take on calibration frames, as far as quantizing them needs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rs4d_edge.calibration.calibration_set import Feeds
from rs4d_edge.errors import DataError, ExportError
from rs4d_edge.runtimes.contract import Runtime

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorStatistics:
    """Of one tensor over all runs.

    `largest`: the mean over the runs of each run's largest magnitude: a single odd frame does not stretch the scale.
    `negative`: whether any value was below 0. `channel_largest` (C,): the largest magnitude of all runs.
    `channel_mean` (C,).
    """

    largest: float
    negative: bool
    channel_largest: Floats
    channel_mean: Floats


class _Sums:
    def __init__(self) -> None:
        self.runs, self.largest, self.negative = 0, 0.0, False
        self.channel_largest: npt.NDArray[np.float64] = np.zeros(1)
        self.channel_sum: npt.NDArray[np.float64] = np.zeros(1)

    def add(self, value: npt.NDArray[Any], axis: int) -> None:
        rows = np.moveaxis(value, axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        channels = np.abs(rows).max(axis=0)
        self.runs += 1
        self.largest += float(channels.max())
        self.negative |= bool((rows < 0).any())
        self.channel_largest = np.maximum(self.channel_largest, channels)
        self.channel_sum = self.channel_sum + rows.mean(axis=0, dtype=np.float64)

    def result(self) -> TensorStatistics:
        mean = (self.channel_sum / self.runs).astype(np.float32)
        largest = self.channel_largest.astype(np.float32)
        return TensorStatistics(self.largest / self.runs, self.negative, largest, mean)


def collect(runtime: Runtime, feeds: Iterable[Feeds], tensors: Mapping[str, int]) -> dict[str, TensorStatistics]:
    """Run a model whose outputs include `tensors` (name: axis of the channels) on all `feeds`.

    ExportError for values that are not finite.
    """
    sums = {name: _Sums() for name in tensors}
    for each in feeds:
        found = runtime.run(each)
        for name, tensor in sums.items():
            if not np.isfinite(found[name]).all():
                raise ExportError(f"the tensor {name!r} takes infinite values or NaN on the calibration frames")
            tensor.add(found[name], tensors[name])
    return {name: tensor.result() for name, tensor in sums.items()}


def save_statistics(statistics: Mapping[str, TensorStatistics], path: Path) -> None:
    """Write to an .npz file."""
    arrays: dict[str, Floats] = {}
    for name, tensor in statistics.items():
        arrays[f"{name}|largest"] = np.array(tensor.largest, dtype=np.float32)
        arrays[f"{name}|negative"] = np.array(tensor.negative, dtype=np.float32)
        arrays[f"{name}|channel_largest"] = tensor.channel_largest
        arrays[f"{name}|channel_mean"] = tensor.channel_mean
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_statistics(path: Path) -> dict[str, TensorStatistics]:
    """Read what `save_statistics` wrote. DataError if it is anything else."""
    try:
        with np.load(path, allow_pickle=False) as held:
            names = {name.rpartition("|")[0] for name in held.files}
            return {
                name: TensorStatistics(
                    float(held[f"{name}|largest"]),
                    bool(held[f"{name}|negative"]),
                    held[f"{name}|channel_largest"],
                    held[f"{name}|channel_mean"],
                )
                for name in names
            }
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} does not hold calibration statistics: {error}; calibrate again") from error
