"""What a measurement was taken on, for records that are compared later."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


def processor_name() -> str:
    """The processor as its maker names it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine_record(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Processor, cores, load, system, the time (UTC), and the versions of `packages` that are installed."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "packages": {name: version for name in ("rs4d-edge", *packages) if (version := package_version(name))},
    }


def is_installed(module: str) -> bool:
    """Whether a module of that full name could be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # a package that it lies in is missing or broken
        return False


def package_version(package: str) -> str | None:
    """That of an installed package, else None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
