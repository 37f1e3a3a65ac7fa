"""Where a device tells of its memory, load, temperature, clocks and power. What is not there says why, and no number.

A source names each of its series `kind:label`, as in `temperature:cpu-thermal`.
"""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# kind: (what it is called, its unit)
KINDS = {
    "memory": ("memory", "bytes"),
    "gpu_memory": ("GPU memory", "bytes"),
    "cpu": ("CPU use", "cores"),
    "gpu": ("GPU use", "%"),
    "temperature": ("temperature", "°C"),
    "clock": ("clock", "MHz"),
    "throttle_count": ("throttling events", ""),
    "throttle_state": ("throttling", ""),  # 0: none
    "power": ("power", "W"),
    "energy": ("energy", "J"),
}
SCALES = {"memory": (1e-6, "MB"), "gpu_memory": (1e-6, "MB")}  # as people read them
COUNTERS = ("throttle_count", "energy")  # they only grow; what they begin with means nothing
PROCESS_MEMORY = "memory:process"
PROCESS_CPU = "cpu:process"
SHORTEST_CPU_S = 0.09  # the kernel counts in hundredths of a second


class Source:
    """One place to read from. `absent`: why nothing can be read, None if it can; `kinds`: what it may tell."""

    name = ""
    kinds: tuple[str, ...] = ()
    absent: str | None = None

    @property
    def available(self) -> bool:
        """Whether `read` gives anything."""
        return self.absent is None

    def read(self) -> dict[str, float]:
        """The present values by series; a value that cannot be read or makes no sense is left out."""
        raise NotImplementedError

    def close(self) -> None:
        """End what was started to read."""


class ProcessUse(Source):
    """Resident memory and busy cores of this process, and the whole machine's busy cores, by psutil."""

    name = "psutil"
    kinds = ("memory", "cpu")

    def __init__(self) -> None:
        try:
            self._psutil: Any = importlib.import_module("psutil")
        except ImportError:
            self.absent = "the package psutil is not installed"
            return
        self._process = self._psutil.Process(os.getpid())
        self._last = self._cpu_seconds()

    def _cpu_seconds(self) -> tuple[float, float, float]:
        """Now, the seconds that this process computed, and those that all cores together were idle."""
        own, every = self._process.cpu_times(), self._psutil.cpu_times()
        return time.monotonic(), own.user + own.system, every.idle + getattr(every, "iowait", 0.0)

    def memory_bytes(self) -> float | None:
        """Resident memory of this process."""
        return None if self.absent else float(self._process.memory_info().rss)

    def read(self) -> dict[str, float]:
        """Memory in bytes; CPU use in cores, since the reading before, if that is long enough ago to tell."""
        found = {PROCESS_MEMORY: float(self._process.memory_info().rss)}
        now = self._cpu_seconds()
        elapsed_s, own_s, idle_s = (after - before for after, before in zip(now, self._last, strict=True))
        if elapsed_s >= SHORTEST_CPU_S:  # psutil's own percentages begin anew, with 0, in every thread that asks
            self._last = now
            found[PROCESS_CPU] = own_s / elapsed_s
            found["cpu:machine"] = max(0.0, (self._psutil.cpu_count() or 1) - idle_s / elapsed_s)
        return found


def read_number(path: Path, base: int | None = None) -> float | None:
    """The number that a file of /sys holds, in `base` if that is given; None for anything else."""
    text = read_text(path)
    if text is None:
        return None
    try:
        number = float(text) if base is None else float(int(text, base))
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_text(path: Path) -> str | None:
    """The stripped text of a file; None where it cannot be read, as happens in /sys at any time."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \t\r\n") or None
    except OSError:
        return None


def labelled(paths: Iterable[tuple[str | None, Path]]) -> dict[str, Path]:
    """Paths by label; a label that came before gets a number behind it."""
    found: dict[str, Path] = {}
    for label, path in paths:
        wanted = name = label or path.name
        number = 1
        while name in found:
            number += 1
            name = f"{wanted} {number}"
        found[name] = path
    return found


def missing_kinds(sources: Iterable[Source], series: Iterable[str]) -> dict[str, list[str]]:
    """For each kind without any series, why: a reason for each source that might have told."""
    present = {name.split(":", 1)[0] for name in series}
    reasons: dict[str, list[str]] = {kind: [] for kind in KINDS if kind not in present}
    for source in sources:
        for kind in source.kinds:
            if kind in reasons:
                reasons[kind].append(f"{source.name}: {source.absent or 'gave nothing that makes sense'}")
    return {kind: why or ["nothing here tells"] for kind, why in reasons.items()}


def shown(kind: str, value: float) -> str:
    """A value as people read it, with its unit."""
    factor, unit = SCALES.get(kind, (1.0, KINDS[kind][1]))
    number = value * factor
    return f"{number:,.0f} {unit}".strip() if abs(number) >= 1000 else f"{number:.4g} {unit}".strip()
