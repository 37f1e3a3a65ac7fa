"""The kernel compiled for aarch64, and run in an emulator: no ARM machine is needed to keep that side working."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rs4d_edge.native.build import COMPILE_FLAGS, KERNEL_SOURCES, SOURCE_DIR

COMPILER = "aarch64-linux-gnu-g++"
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")


def test_the_kernel_computes_right_on_aarch64(tmp_path: Path) -> None:
    compiler = shutil.which(COMPILER)
    if compiler is None:
        pytest.skip(f"{COMPILER} is not installed (Debian/Ubuntu: apt-get install g++-aarch64-linux-gnu)")
    program = tmp_path / "kernel_check"
    sources = [*(SOURCE_DIR / name for name in KERNEL_SOURCES), Path(__file__).with_name("kernel_check.cpp")]
    flags = [*COMPILE_FLAGS, "-O2", "-static", "-pthread", "-I", str(SOURCE_DIR)]
    command = [compiler, *map(str, sources), "-o", str(program), *flags]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    emulator = next(filter(None, map(shutil.which, EMULATORS)), None)
    if emulator is None:
        pytest.skip("it compiles; no qemu-aarch64 to run it (Debian/Ubuntu: apt-get install qemu-user-static)")
    ran = subprocess.run([emulator, str(program)], capture_output=True, text=True, check=False, timeout=60)
    assert ran.stdout.startswith("neon "), ran.stderr
    assert ran.returncode == 0, ran.stdout
