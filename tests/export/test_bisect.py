"""Intermediate results beside each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from rs4d_edge.errors import ParityError
from rs4d_edge.export.bisect import FeatureDifference, compare_features
from rs4d_edge.export.recipes import Precision
from rs4d_edge.export.tolerances import TOLERANCES
from rs4d_edge.tolerances import Tolerances

Floats = npt.NDArray[np.float32]


def limits(tensor: float) -> Tolerances:
    """Those of fp32 with another limit for tensors."""
    return TOLERANCES[Precision.FP32].model_copy(update={"tensor": tensor})


def one(name: str, expected: list[list[float]], found: list[list[float]]) -> FeatureDifference:
    """A single result, compared."""
    reference, exported = (np.array(values, dtype=np.float32) for values in (expected, found))
    return next(compare_features({name: reference}, {name: exported}))


def test_difference_is_relative_to_the_largest_magnitude() -> None:
    found = one("encoder.0", [[4.0, 0.0]], [[4.0, 0.004]])
    assert found.max_abs == pytest.approx(0.004) and found.relative == pytest.approx(1e-3)
    assert found.departs(limits(9e-4)) and not found.departs(limits(1.1e-3))
    assert str(found) == "encoder.0: 4.00e-03 of 4.00e+00 (1.0e-03)"


def test_a_result_of_zeros_has_an_absolute_limit() -> None:
    assert not one("neck.0", [[0.0]], [[1e-5]]).departs(limits(1e-4))
    assert one("neck.0", [[0.0]], [[1e-3]]).departs(limits(1e-4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["encoder.0", "scores"])
def test_what_is_not_finite_departs(name: str, value: float) -> None:
    assert one(name, [[1.0, 2.0]], [[1.0, value]]).departs(limits(1.0))


def test_behind_a_selection_a_few_moved_rows_are_forgiven() -> None:
    rows = [[float(row)] for row in range(1, 21)]
    swapped = [rows[1], rows[0], *rows[2:]]
    reference = {name: np.array(rows, dtype=np.float32)[None] for name in ("proposals", "encoder.0")}
    exported = {name: np.array(swapped, dtype=np.float32)[None] for name in reference}
    proposals, encoder = compare_features(reference, exported)
    assert proposals.moved_rows == pytest.approx(0.1) and not proposals.departs(limits(1e-4))
    assert encoder.departs(limits(1e-4))
    shuffled = {"proposals": np.array(rows[::-1], dtype=np.float32)[None]}
    assert next(compare_features(shuffled | {}, {"proposals": reference["proposals"]})).departs(limits(1e-4))


def test_worst_of_two_frames() -> None:
    first, second = one("neck.0", [[1.0]], [[1.5]]), one("neck.0", [[3.0]], [[3.1]])
    worst = first.worst_of(second)
    assert (worst.max_abs, worst.magnitude) == (0.5, 3.0)


@pytest.mark.parametrize("exported", [{}, {"neck.0": np.zeros((1, 3), dtype=np.float32)}])
def test_a_missing_or_misshapen_result_is_named(exported: dict[str, Floats]) -> None:
    with pytest.raises(ParityError, match=r"neck\.0"):
        list(compare_features({"neck.0": np.zeros((1, 2), dtype=np.float32)}, exported))
