"""Files that are either whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rs4d_edge.errors import InputError


def write_text(text: str, path: Path) -> None:
    """Write `path`, with its folder if that is missing. `InputError` where that is not possible."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


def write_json(content: dict[str, Any], path: Path) -> None:
    """`content` as JSON, without NaN; see `write_text`."""
    write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", path)
