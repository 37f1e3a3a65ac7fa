"""Builds cuda_emulation.cpp: the CUDA kernels on the CPU, behind the real launch code. Skips where there is no g++."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

import pytest

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.native.build import find_compiler
from rs4d_edge.native.cuda_build import SOURCE_DIR
from rs4d_edge.native.cuda_driver import CudaDriver
from rs4d_edge.reference.scan_cuda import CudaScan

# Contraction is off: where a kernel fuses a product and a sum it says so, and the device does nothing else.
_FLAGS = (
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
)


@functools.cache
def _build() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    try:
        compiler = find_compiler()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    folder = tempfile.TemporaryDirectory(prefix="rs4d-cuda-")
    here, library = Path(__file__).parent, Path(folder.name) / "emulated_cuda.so"
    command = [compiler, *_FLAGS, "-I", str(SOURCE_DIR), "-I", str(here), str(here / "cuda_emulation.cpp")]
    built = subprocess.run([*command, "-o", str(library)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-4000:]
    return library, folder


class Emulation:
    """The stand-in for libcuda, and switches that a device does not have."""

    def __init__(self) -> None:
        self.library = _build()[0]
        self._symbols = ctypes.CDLL(str(self.library))
        self.driver = CudaDriver(0, str(self.library))
        self.scan = CudaScan(self.driver.load(b"emulated"), lambda: 0)

    def reset(self) -> None:
        """Threads in ascending order, an exact exponential."""
        self.run_threads_descending(False)
        self.spoil_exponential(0.0)

    def run_threads_descending(self, descending: bool) -> None:
        ctypes.c_int.in_dll(self._symbols, "emulation_descending").value = int(descending)

    def spoil_exponential(self, relative: float) -> None:
        """Let every exponential but that of 0 be wrong by this much."""
        self._symbols.emulation_set_exponential_error(ctypes.c_float(relative))

    @property
    def contexts_left(self) -> int:
        """Contexts pushed and not popped."""
        return ctypes.c_int.in_dll(self._symbols, "emulation_context").value
