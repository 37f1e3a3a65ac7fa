"""The trained weights that come with the package, by name."""

from __future__ import annotations

from pathlib import Path

import rs4d_edge
from rs4d_edge.errors import InputError

FOLDER = Path(rs4d_edge.__file__).parent / "shipped"
DEFAULT_NAME = "rs4d-edge-nano-bbox"


def shipped_names() -> tuple[str, ...]:
    """Names of the shipped models: the default first, the others in alphabetical order; empty if none came along."""
    names = (path.stem for path in FOLDER.glob("*.safetensors"))
    return tuple(sorted(names, key=lambda name: (name != DEFAULT_NAME, name)))


def shipped_path(name: str) -> Path:
    """The weights file of a shipped model; an unknown name raises InputError with those that there are."""
    names = shipped_names()
    if name not in names:
        raise InputError(
            f"no trained weights named {name!r} come with rs4d-edge; there are: {', '.join(names) or 'none'}"
        )
    return FOLDER / f"{name}.safetensors"
