"""Where an export departs from the reference: every intermediate result beside the reference's, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rs4d_edge.errors import ParityError
from rs4d_edge.tolerances import Tolerances

Array = npt.NDArray[Any]

# Results ahead of the first selection (top-k), which stand at the same place in both. Behind it a near tie may change
# the order of rows, so there the share of rows that differ is what counts.
DENSE = ("normalised", "stem.", "encoder.", "neck.", "rpn_cls.", "rpn_reg.")


@dataclass(frozen=True)
class FeatureDifference:
    """One intermediate result: largest difference, the reference's largest magnitude, and the share of rows that moved.

    A row is all that the first two axes leave; it moved if a value differs by more than 1e-3 of the magnitude.
    """

    name: str
    dense: bool
    max_abs: float
    magnitude: float
    moved_rows: float

    @property
    def relative(self) -> float:
        """Largest difference over largest magnitude."""
        return self.max_abs / self.magnitude if self.magnitude else self.max_abs

    def limit(self, tolerance: float) -> float:
        """The largest difference that `tolerance` allows."""
        return tolerance * (self.magnitude or 1.0)

    def departs(self, limits: Tolerances) -> bool:
        """Whether this result is not the reference's any more."""
        if not np.isfinite(self.max_abs):
            return True
        too_far = self.max_abs > self.limit(limits.tensor)
        return too_far and (self.dense or self.moved_rows > limits.moved_rows)

    def worst_of(self, other: FeatureDifference) -> FeatureDifference:
        """Both frames' worst."""
        return FeatureDifference(
            self.name,
            self.dense,
            max(self.max_abs, other.max_abs),
            max(self.magnitude, other.magnitude),
            max(self.moved_rows, other.moved_rows),
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.max_abs:.2e} of {self.magnitude:.2e} ({self.relative:.1e})"


def compare_features(reference: Mapping[str, Array], exported: Mapping[str, Array]) -> Iterator[FeatureDifference]:
    """Each result of `reference`, in its order, beside the one of the same name in `exported`."""
    for name, expected in reference.items():
        if name not in exported or exported[name].shape != expected.shape:
            found = exported[name].shape if name in exported else "missing"
            raise ParityError(f"the intermediate result {name!r} is {found} in the export; expected {expected.shape}")
        yield _difference(name, expected, exported[name])


def _difference(name: str, expected: Array, found: Array) -> FeatureDifference:
    difference = np.abs(expected.astype(np.float32) - found.astype(np.float32))
    difference = np.where(np.isfinite(found), difference, np.inf) if found.dtype.kind == "f" else difference
    magnitude = float(np.abs(expected).max(initial=0))
    rows = difference.reshape(difference.shape[0] * difference.shape[1], -1).max(axis=1, initial=0)
    return FeatureDifference(
        name=name,
        dense=name.startswith(DENSE),
        max_abs=float(difference.max(initial=0)),
        magnitude=magnitude,
        moved_rows=float(np.mean(rows > 1e-3 * (magnitude or 1.0))),
    )
