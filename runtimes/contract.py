"""The four members that every runtime has: `inputs`, `outputs`, `run`, `close`.

A runtime turns named arrays into named arrays and knows nothing of detections.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from rs4d_edge.errors import InputError, RuntimeFailure

Array = npt.NDArray[Any]


class TensorSpec(NamedTuple):
    """One input or output of a model. Shapes are fixed; dimensions follow the graph's own order."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name!r} {self.dtype} {self.shape}"


class Runtime(Protocol):
    """One loaded model on one engine. Not safe to share between threads; open one for each."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be fed, in the graph's order."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` answers with, in the graph's order."""
        ...

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once. The arrays returned are the caller's own: a later call does not change them.

        Raises InputError for feeds that do not fit `inputs`, RuntimeFailure if the engine fails, ClosedError after
        `close`.
        """
        ...

    def close(self) -> None:
        """Give the model's memory back. May be called twice."""
        ...


class RuntimeModule(Protocol):
    """What a module named in the table of runtimes offers."""

    def open_model(self, model_path: Path, *, threads: int | None, precision: str) -> Runtime:
        """Load the model at `model_path`. `threads` None leaves the number to the engine."""
        ...


def check_feeds(specs: Iterable[TensorSpec], feeds: Mapping[str, Array]) -> None:
    """Raise InputError unless `feeds` has exactly the named arrays of `specs`, each with its dtype and shape."""
    wanted = {spec.name: spec for spec in specs}
    missing, unknown = sorted(wanted.keys() - feeds.keys()), sorted(feeds.keys() - wanted.keys())
    if missing or unknown:
        raise InputError(
            f"the model takes {sorted(wanted)}, but {missing or 'nothing'} is missing and {unknown or 'nothing'} is "
            f"unknown; feed exactly the names of `inputs`"
        )
    for name, spec in wanted.items():
        array = feeds[name]
        if not isinstance(array, np.ndarray):
            raise InputError(f"input {spec} came as {type(array).__name__}; pass a numpy array")
        if array.dtype != spec.dtype or array.shape != spec.shape:
            raise InputError(f"input {spec} came as {array.dtype} {array.shape}; convert it before the call")


def check_threads(threads: int | None) -> None:
    """Raise InputError unless `threads` is None or a positive whole number."""
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads must be None or a whole number from 1 on, not {threads!r}")


def check_file(model_path: Path) -> None:
    """Raise InputError unless `model_path` is a file."""
    if not model_path.is_file():
        raise InputError(f"there is no model file at {model_path}; give the path of the file that the export wrote")


def fixed_shape(name: str, shape: Iterable[object]) -> tuple[int, ...]:
    """`shape` as whole numbers; RuntimeFailure if a dimension is symbolic, because exported graphs have none."""
    dimensions = tuple(shape)
    if not all(isinstance(size, (int, np.integer)) and size >= 0 for size in dimensions):
        raise RuntimeFailure(
            f"{name!r} has the shape {dimensions}, but only fixed shapes are run; export the model again"
        )
    return tuple(int(size) for size in dimensions if isinstance(size, (int, np.integer)))
