"""The native scan inside ONNX Runtime: build and register our library of custom operators.

An exported model carries each scan, or each mixer around two of them, as a node of our own with a model-local function
of standard operators as its body. ONNX Runtime (1.17 to 1.32 were tried) takes a registered kernel in preference to
that function, and inlines the function where no kernel is registered. So one file serves both, and registering the
library is all there is to do.

The library needs a C++ compiler to build and no header of ONNX Runtime, whose C interface `native/onnxruntime_abi.h`
declares. One build serves every ONNX Runtime from 1.17 on. The runtime builds it when the first model asks for it;
`python -m rs4d_edge.runtimes.onnxruntime_scan` does so beforehand.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import mmap
import sys
import warnings
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
from rs4d_edge.native.library import HIDE_VARIABLE, native_hidden

_LOG = logging.getLogger(__name__)
_SOURCES = ("onnxruntime_ops.cpp", "onnxruntime_op.cpp", *KERNEL_SOURCES)
# Its own copy of the kernel, whatever else is loaded: the scan library has the same names, on another thread pool.
_LINK_FLAGS = ("-Wl,-Bsymbolic", "-Wl,-z,defs") if sys.platform == "linux" else ()
_FLAGS = (*COMPILE_FLAGS, "-DRS4D_ONNXRUNTIME", "-pthread", *_LINK_FLAGS)
# The field `domain` of a node in an ONNX file: number 7, a string of four bytes.
_OWN_NODE = b"\x3a\x04rs4d"


def has_own_nodes(model_path: Path) -> bool:
    """Whether the ONNX file has nodes of ours, for which the library is worth its build. Reads it, parses nothing."""
    if model_path.stat().st_size == 0:
        return False
    with model_path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_OWN_NODE) >= 0


def library_path(folder: Path = SOURCE_DIR) -> Path:
    """Where the library of these sources lies in `folder` once it is built; the name carries a digest of them."""
    return folder / f"_rs4d_onnxruntime-{_source_digest()}{LIBRARY_SUFFIX}"


def build_scan_library(folder: Path = SOURCE_DIR) -> Path:
    """Build the library into `folder` (about 10 s) and return its path.

    Raises:
        RuntimeUnavailable: no compiler, a folder that cannot be written, or the compiler failed; says which.
    """
    sources = [SOURCE_DIR / name for name in _SOURCES]
    return compile_library(find_compiler(), sources, library_path(folder), _FLAGS)


def register_library(options: onnxruntime.SessionOptions, path: Path) -> None:
    """Register the built library for the sessions made with `options`.

    Raises:
        RuntimeUnavailable: it does not load, or this ONNX Runtime is too old for it.
    """
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:  # its errors have no public base class
        raise RuntimeUnavailable(f"onnxruntime {onnxruntime.__version__} refuses {path}: {error}") from error


def add_scan_kernel(options: onnxruntime.SessionOptions) -> bool:
    """Let the sessions made with `options` run our nodes by our kernels; False where the file's own bodies serve.

    The library is built first if it is not there yet. Where that fails, or it does not load, one warning says why;
    none where RS4D_NO_NATIVE hides it.
    """
    if native_hidden():
        _LOG.info("scans run through the bodies in the file: %s is set", HIDE_VARIABLE)
        return False
    problem = _library_problem()
    if problem is not None:
        _warn_once(problem)
        return False
    register_library(options, library_path())
    return True


@functools.cache
def _library_problem() -> str | None:
    """Why the library cannot be used, after one attempt to build and load it; None if it can."""
    path = library_path()
    try:
        if not path.is_file():
            _LOG.warning("building the scan's library for ONNX Runtime, once for this version of rs4d-edge")
            build_scan_library()
        register_library(onnxruntime.SessionOptions(), path)
    except RuntimeUnavailable as error:
        return str(error)
    return None


@functools.cache
def _warn_once(problem: str) -> None:
    text = f"ONNX Runtime runs the scans through standard operators, several times slower: {problem}"
    warnings.warn(text, RuntimeWarning, stacklevel=4)


@functools.cache
def _source_digest() -> str:
    """Twelve hexadecimal digits over the sources and the flags."""
    digest = hashlib.sha256(repr(_FLAGS).encode())
    for path in sorted([*SOURCE_DIR.glob("*.h"), *(SOURCE_DIR / name for name in _SOURCES)]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


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
