"""Shipped weights: their names, the default first, and what is in the folder loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from rs4d_edge.errors import InputError
from rs4d_edge.reference import shipped
from rs4d_edge.reference.checkpoints import load_state
from rs4d_edge.reference.config import DetectorConfig


def test_default_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    assert shipped.shipped_names() == ()
    for name in ("rs4d-edge-small-bbox", "rs4d-edge-nano-prompt", "rs4d-edge-nano-bbox"):
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / "README.md").touch()
    assert shipped.shipped_names() == ("rs4d-edge-nano-bbox", "rs4d-edge-nano-prompt", "rs4d-edge-small-bbox")
    assert shipped.shipped_path("rs4d-edge-nano-prompt") == tmp_path / "rs4d-edge-nano-prompt.safetensors"


def test_unknown_name_is_answered_with_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(InputError, match="'x' come with rs4d-edge; there are: none"):
        shipped.shipped_path("x")


def test_every_shipped_file_carries_its_configuration() -> None:
    for name in shipped.shipped_names():
        state, config = load_state(shipped.shipped_path(name))
        assert isinstance(config, DetectorConfig)
        assert len(state) > 50
