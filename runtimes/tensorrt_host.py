"""The machine at hand, as far as engines depend on it."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path
from typing import Any

from rs4d_edge.errors import InputError
from rs4d_edge.runtimes.tensorrt_cuda import Gpu
from rs4d_edge.runtimes.tensorrt_record import EngineHost

_KERNEL_MODULE = re.compile(r"Kernel Module(?: for \S+)?\s+(\d[\w.]*)")
_RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")


def host_of(trt: Any, gpu: Gpu | None, compute_capability: str | None = None, root: Path = Path("/")) -> EngineHost:
    """Library `trt` on this machine with `gpu`; without a GPU, for any of `compute_capability`."""
    library, version = trt.__name__, trt.__version__
    if gpu is None:
        if compute_capability is None:
            raise InputError("without a GPU an engine is built for a compute capability that is named, as in 8.6")
        return EngineHost(
            library=library, version=version, compute_capability=compute_capability, platform=platform_name()
        )
    return EngineHost(
        library=library,
        version=version,
        compute_capability=gpu.compute_capability,
        platform=platform_name(),
        gpu=gpu.name,
        driver=driver_version(root),
        jetpack=jetpack_release(root),
    )


def platform_name() -> str:
    """The operating system and the processor of this machine, as records name them."""
    return f"{sys.platform}-{platform.machine()}"


def driver_version(root: Path = Path("/")) -> str | None:
    """That of NVIDIA's kernel driver as the kernel tells it, None where it does not."""
    text = _read(root / "sys/module/nvidia/version")
    if text:
        return text
    found = _KERNEL_MODULE.search(_read(root / "proc/driver/nvidia/version"))
    return found[1] if found else None


def jetpack_release(root: Path = Path("/")) -> str | None:
    """The release of a Jetson's system, which JetPack names L4T, from /etc/nv_tegra_release; None on other machines."""
    found = _RELEASE.search(_read(root / "etc/nv_tegra_release"))
    return f"L4T {found[1]}.{found[2]}" if found else None


def available_memory_bytes(root: Path = Path("/")) -> int | None:
    """What the system can give to new programs without swapping, None where it does not tell."""
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
