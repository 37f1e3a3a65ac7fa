"""TensorRT's timing cache: what it measured of kernels, kept in a file, so that the next build is shorter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def load_timing_cache(config: Any, path: Path) -> Any:
    """Give `config` the cache in `path`, or an empty one if there is none or TensorRT refuses it: then all is measured.

    TensorRT refuses what was measured by another version or on another GPU.
    """
    for content in (_read(path), b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def save_timing_cache(config: Any, path: Path) -> None:
    """Write what `config` holds after a build to `path`, whole or not at all. It is no error if it cannot be kept."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(cache.serialize())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
