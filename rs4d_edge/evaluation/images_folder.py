"""Where the images of an annotation file are, unless a user says so."""

from __future__ import annotations

from pathlib import Path


def images_beside(annotations: Path) -> Path:
    """The folder `images` beside the file if there is one, else the file's own folder."""
    folder = annotations.parent / "images"
    return folder if folder.is_dir() else annotations.parent
