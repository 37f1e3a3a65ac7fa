"""Files are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rs4d_edge.errors import InputError
from rs4d_edge.whole_file import write_json, write_text


def test_figures_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "figures.json"
    write_json({"AP": 0.5}, path)
    for unwritable, error in (({"AP": np.float32}, TypeError), ({"AP": float("nan")}, ValueError)):
        with pytest.raises(error):
            write_json(unwritable, path)
    assert json.loads(path.read_text()) == {"AP": 0.5}
    assert list(path.parent.iterdir()) == [path]


def test_a_place_that_cannot_be_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="cannot be written"):
        write_text("text", tmp_path / "file" / "table.md")
    assert (tmp_path / "file").read_text() == "kept"
