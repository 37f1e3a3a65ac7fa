"""The native scan inside ONNX Runtime: find, build and register our library of custom operators.

An exported model carries the scan as a node of our own with a model-local function of standard operators as its body.
ONNX Runtime (1.20 to 1.32 were tried) takes a registered kernel in preference to that function, and inlines the
function where no kernel is registered. So one file serves both, and registering the library is all there is to do.

Build it once per machine: `python -m rs4d_edge.runtimes.onnxruntime_scan`. It needs a C++ compiler and ONNX Runtime's
public C++ headers, which its Python package leaves out; headers of 1.17 or newer fit any runtime from 1.20 on.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path

import onnxruntime

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.native.build import (
    COMPILE_FLAGS,
    KERNEL_SOURCES,
    LIBRARY_SUFFIX,
    SOURCE_DIR,
    compile_library,
    find_compiler,
)
from rs4d_edge.native.library import ABI_VERSION, HIDE_VARIABLE

INCLUDE_VARIABLE = "RS4D_ONNXRUNTIME_INCLUDE"
LIBRARY_NAME = "_rs4d_onnxruntime" + LIBRARY_SUFFIX
_HEADER = "onnxruntime_cxx_api.h"
# Its own copy of the kernel, whatever else is loaded: the scan library has the same names, on another thread pool.
_LINK_FLAGS = ("-Wl,-Bsymbolic", "-Wl,-z,defs") if sys.platform == "linux" else ()
_SYSTEM_FOLDERS = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/opt/onnxruntime/include")
_BUILD_COMMAND = "python -m rs4d_edge.runtimes.onnxruntime_scan"


def find_headers() -> Path:
    """The folder that holds ONNX Runtime's C++ headers: `$RS4D_ONNXRUNTIME_INCLUDE`, else the usual places.

    Raises:
        RuntimeUnavailable: they are in none of them; says where to get them.
    """
    named = os.environ.get(INCLUDE_VARIABLE)
    folders = [Path(named)] if named else [Path(folder) for folder in _SYSTEM_FOLDERS]
    for folder in folders:
        if (folder / _HEADER).is_file():
            return folder
    raise RuntimeUnavailable(
        f"{_HEADER} is not in {', '.join(map(str, folders))}: install ONNX Runtime's headers (Debian 13: apt-get "
        f"install libonnxruntime-dev; elsewhere unpack that package or a release archive of ONNX Runtime) or set "
        f"{INCLUDE_VARIABLE} to their folder, then run `{_BUILD_COMMAND}`; models run without it, only slower"
    )


def build_scan_library(output_dir: Path = SOURCE_DIR) -> Path:
    """Build the library into `output_dir` and return its path.

    Raises:
        RuntimeUnavailable: no headers, no compiler, or the compiler failed.
    """
    headers = find_headers()
    sources = [SOURCE_DIR / name for name in ("onnxruntime_ops.cpp", *KERNEL_SOURCES)]
    flags = [*COMPILE_FLAGS, "-DRS4D_ONNXRUNTIME", "-isystem", str(headers), "-pthread", *_LINK_FLAGS]
    return compile_library(find_compiler(), sources, output_dir / LIBRARY_NAME, flags)


def scan_library(folder: Path = SOURCE_DIR) -> Path:
    """The built library, checked to be of this package's version.

    Raises:
        RuntimeUnavailable: it is not built, does not load or is older than the package, or RS4D_NO_NATIVE hides it.
    """
    if os.environ.get(HIDE_VARIABLE, "0") not in ("", "0"):
        raise RuntimeUnavailable(f"hidden by the environment variable {HIDE_VARIABLE}")
    path = folder / LIBRARY_NAME
    if not path.is_file():
        raise RuntimeUnavailable(f"{path} is not there: run `{_BUILD_COMMAND}`")
    version = _abi_version(path)
    if version != ABI_VERSION:
        raise RuntimeUnavailable(f"{path} has interface version {version}, not {ABI_VERSION}: run `{_BUILD_COMMAND}`")
    return path


def add_scan_kernel(options: onnxruntime.SessionOptions, folder: Path = SOURCE_DIR) -> None:
    """Register the kernel for the sessions made with `options`.

    Raises:
        RuntimeUnavailable: the library is unavailable (see `scan_library`) or this ONNX Runtime refuses it.
    """
    path = scan_library(folder)
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:  # its errors have no public base class
        raise RuntimeUnavailable(f"onnxruntime {onnxruntime.__version__} refuses {path}: {error}") from error


@functools.cache
def _abi_version(path: Path) -> int:
    try:
        return int(ctypes.CDLL(str(path)).rs4d_abi_version())
    except (OSError, AttributeError) as error:
        raise RuntimeUnavailable(f"{path} does not load: {error}; run `{_BUILD_COMMAND}`") from error


def main() -> int:
    """Entry point of the module; exit code 1 where it cannot be built, with the reason on stderr."""
    try:
        path = build_scan_library()
    except RuntimeUnavailable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
