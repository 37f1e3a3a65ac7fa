"""Signal to noise on numbers whose rounding is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from rs4d_edge.calibration.accuracy import ValidationSet
from rs4d_edge.calibration.sensitivity import MOST_DB, NoisePower, SensitivityRequest, sqnr_db
from rs4d_edge.errors import ExportError, InputError


def test_the_ratio_is_that_of_sums_of_squares() -> None:
    exact, rounded = np.array([[3.0, -4.0]]), np.array([[3.0, -3.5]])
    assert sqnr_db(exact, rounded) == pytest.approx(20.0)  # 25 over 0.25
    power = NoisePower()
    power.add(exact, rounded)
    power.add(np.array([5.0]), np.array([5.0]))
    assert power.sqnr_db == pytest.approx(10 * math.log10(50 / 0.25))


def test_nothing_exact_and_nothing_but_noise_are_told_apart() -> None:
    zeros, ones = np.zeros(3), np.ones(3)
    assert sqnr_db(zeros, zeros) is None
    assert sqnr_db(ones, ones) == MOST_DB
    assert sqnr_db(zeros, ones) == -MOST_DB


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ExportError, match="shape"):
        sqnr_db(np.ones(3), np.ones((3, 1)))
    with pytest.raises(ExportError, match="NaN"):
        sqnr_db(np.array([1.0]), np.array([np.nan]))


def test_a_report_needs_a_page_in_a_folder_that_is_there(tmp_path: Path) -> None:
    request = SensitivityRequest(tmp_path / "report.html", ValidationSet(tmp_path / "val.json"))
    assert request.validation is not None and request.validation.images_dir == tmp_path
    for page, message in ((tmp_path / "report.pdf", r"\.html"), (tmp_path / "none" / "report.html", "folder")):
        with pytest.raises(InputError, match=message):
            SensitivityRequest(page)
