"""A cached calibration serves only what it was measured on, and says why it does not serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rs4d_edge.calibration.cache import CalibrationCache
from rs4d_edge.calibration.identity import key_of
from rs4d_edge.errors import InputError
from rs4d_edge.quantization_record import CalibrationIdentity

IDENTITY = CalibrationIdentity(
    weights="a" * 64,
    frames="b" * 64,
    preprocessing="c" * 64,
    settings={"smooth_projections": True, "samples": 8},
    tools={"nncf": "3.4.0"},
)


@pytest.fixture
def cache(tmp_path: Path) -> CalibrationCache:
    """With one entry of `IDENTITY`."""
    opened = CalibrationCache(tmp_path / "cache")
    assert opened.find("tiny-cpu", IDENTITY).reason == "nothing is cached for tiny-cpu"
    opened.store("tiny-cpu", IDENTITY, lambda folder: store_text(folder, "ranges"))
    return opened


def store_text(folder: Path, text: str) -> None:
    (folder / "ranges.txt").write_text(text)


def test_the_same_identity_finds_the_files(cache: CalibrationCache) -> None:
    found = cache.find("tiny-cpu", IDENTITY.model_copy()).folder
    assert found is not None and (found / "ranges.txt").read_text() == "ranges"
    assert cache.find("tiny-onnx", IDENTITY).folder is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"weights": "d" * 64}, "weights"),
        ({"frames": "d" * 64, "preprocessing": "e" * 64}, "frames, preprocessing"),
        ({"preprocessing": "d" * 64}, "preprocessing"),
        ({"settings": {"smooth_projections": False, "samples": 8}}, "setting smooth_projections (True, now False)"),
        ({"settings": {"smooth_projections": True}}, "setting samples (8, now not set)"),
        ({"tools": {"nncf": "3.5.0"}}, "tool nncf (3.4.0, now 3.5.0)"),
    ],
)
def test_every_part_counts_and_is_named(cache: CalibrationCache, change: dict[str, Any], reason: str) -> None:
    other = IDENTITY.model_copy(update=change)
    answer = cache.find("tiny-cpu", other)
    assert answer.folder is None
    assert answer.reason == f"changed since the cached calibration: {reason}"
    assert key_of(other) != key_of(IDENTITY)
    cache.store("tiny-cpu", other, lambda folder: store_text(folder, "new ranges"))
    assert cache.find("tiny-cpu", IDENTITY).folder is None
    found = cache.find("tiny-cpu", other).folder
    assert found is not None and (found / "ranges.txt").read_text() == "new ranges"


@pytest.mark.parametrize("file", ["ranges.txt", "identity.json"])
def test_damage_is_found(cache: CalibrationCache, tmp_path: Path, file: str) -> None:
    (tmp_path / "cache" / "tiny-cpu" / file).write_text("{")
    answer = cache.find("tiny-cpu", IDENTITY)
    assert answer.folder is None and ("damaged: ranges.txt" in answer.reason or "cannot be read" in answer.reason)


def test_a_calibration_that_fails_leaves_the_entry_that_was_there(cache: CalibrationCache, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        store_text(folder, "half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.store("tiny-cpu", IDENTITY.model_copy(update={"weights": "d" * 64}), fail)
    assert cache.find("tiny-cpu", IDENTITY).folder is not None
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tiny-cpu"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(InputError, match="is a file"):
        CalibrationCache(tmp_path / "cache")
