"""Which machine a measurement was taken on, in as much detail as decides the figures."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rs4d_edge.bench.sources import read_text
from rs4d_edge.machine import machine_record

MODE_SECONDS = 10
ABSENT = "not available here"


def device_record(packages: Iterable[str], gpus: Iterable[str] = (), root: Path = Path("/")) -> dict[str, Any]:
    """Processor, board, GPUs, cores, governor, power mode, memory, system and versions; `ABSENT` for what is not told.

    `usable_cores` are those that this process may run on; `governors` and `energy_preferences` are of all cores.
    """
    cores = "sys/devices/system/cpu/cpu[0-9]*/cpufreq"
    return {
        **machine_record(packages),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "board": read_text(root / "proc/device-tree/model")
        or read_text(root / "sys/class/dmi/id/product_name")
        or ABSENT,
        "gpus": list(gpus) or ABSENT,
        "governors": _every(root, f"{cores}/scaling_governor"),
        "energy_preferences": _every(root, f"{cores}/energy_performance_preference"),
        "power_mode": _power_mode(root),
        "memory_bytes": _memory_bytes(root) or ABSENT,
        "os": _system_name(),
    }


def _every(root: Path, pattern: str) -> list[str] | str:
    return sorted({text for path in root.glob(pattern) if (text := read_text(path))}) or ABSENT


def _power_mode(root: Path) -> str:
    """A Jetson's from nvpmodel, a PC's from its firmware."""
    program = shutil.which("nvpmodel")
    if program is not None:
        try:
            done = subprocess.run(
                [program, "-q"],
                capture_output=True,
                text=True,
                check=False,
                timeout=MODE_SECONDS,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ABSENT
        lines = [line.split(":", 1)[1].strip() for line in done.stdout.splitlines() if "Power Mode:" in line]
        return lines[0] if lines else ABSENT
    return read_text(root / "sys/firmware/acpi/platform_profile") or ABSENT


def _memory_bytes(root: Path) -> int | None:
    lines = (read_text(root / "proc/meminfo") or "").splitlines()
    sizes = [line.split() for line in lines if line.startswith("MemTotal:")]
    try:
        return int(sizes[0][1]) << 10 if sizes else None
    except (IndexError, ValueError):
        return None


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", ABSENT)
    except OSError:
        return ABSENT
