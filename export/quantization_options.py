"""What the options of `rs4d-export` around --val ask for, checked before anything is computed."""

from __future__ import annotations

from pathlib import Path

from rs4d_edge.calibration.accuracy import AccuracyGoal, ValidationSet
from rs4d_edge.calibration.sensitivity import SensitivityRequest
from rs4d_edge.errors import DataError, InputError


def make_validation(val: Path | None) -> ValidationSet | None:
    """What to measure average precision on, if anything. DataError for a file that is not there."""
    if val is not None and not val.is_file():
        raise DataError(f"there is no annotation file at --val {val}; give a COCO file")
    return None if val is None else ValidationSet(val)


def make_goal(max_drop: float | None, val: Path | None) -> AccuracyGoal | None:
    """The goal, if one was asked for. InputError for one without a file to measure on."""
    if max_drop is not None and val is None:
        raise InputError("--max-drop needs --val: the COCO file on which mask AP may fall by so much")
    return None if max_drop is None or val is None else AccuracyGoal(val, max_drop)


def make_sensitivity(page: Path | None, val: Path | None) -> SensitivityRequest | None:
    """The report that was asked for, if any, with AP effects if there is a file to measure them on."""
    return None if page is None else SensitivityRequest(page, ValidationSet(val) if val is not None else None)
