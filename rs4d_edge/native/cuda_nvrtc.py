"""Compile the CUDA kernels for the GPU at hand with NVRTC, the compiler library that torch's CUDA wheels bring.

The sources include no header but their own, so neither CUDA's nor the host compiler's need to be installed.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.native.cuda_build import COMPILE_FLAGS, HEADERS, KERNEL_SOURCE, SOURCE_DIR

_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


def _candidates() -> Iterator[str]:
    """Names for the loader, then the places of NVIDIA's wheels, which the loader does not search."""
    yield from _NAMES
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        yield from sorted(str(path) for path in Path(folder).glob("*/lib/libnvrtc.so*"))


def load_nvrtc() -> ctypes.CDLL:
    """The compiler library.

    Raises:
        RuntimeUnavailable: it is neither on the loader's path nor in a wheel of NVIDIA's.
    """
    for name in _candidates():
        try:
            for part in Path(name).parent.glob("libnvrtc-builtins.so*") if "/" in name else ():
                ctypes.CDLL(str(part))  # NVRTC opens it by name alone, which finds it only once it is loaded
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    raise RuntimeUnavailable(
        "no NVRTC: libnvrtc is neither on the loader's path nor in NVIDIA's wheels; install torch's CUDA build, or "
        "build the kernels with `python -m rs4d_edge.native.cuda_build`, which needs nvcc"
    )


def compile_for(architecture: str) -> bytes:
    """The kernels as a cubin for one GPU ("sm_87"), or as PTX for it ("compute_75"). Takes some seconds.

    Raises:
        RuntimeUnavailable: no NVRTC, or it refuses the architecture or the sources; carries its log.
    """
    nvrtc, program = load_nvrtc(), ctypes.c_void_p()
    sources = [(SOURCE_DIR / name).read_bytes() for name in HEADERS]
    headers, names = _strings(sources), _strings([name.encode() for name in HEADERS])
    source = (SOURCE_DIR / KERNEL_SOURCE).read_bytes()
    arguments = (ctypes.byref(program), source, KERNEL_SOURCE.encode(), len(sources), headers, names)
    _check(nvrtc, nvrtc.nvrtcCreateProgram(*arguments), "nvrtcCreateProgram")
    try:
        options = [f"--gpu-architecture={architecture}".encode(), *(flag.encode() for flag in COMPILE_FLAGS)]
        code = nvrtc.nvrtcCompileProgram(program, len(options), _strings(options))
        log = _text(nvrtc, program, "ProgramLog").rstrip(b"\0").decode() if code else ""
        _check(nvrtc, code, f"compiling {KERNEL_SOURCE} for {architecture}", log)
        return _text(nvrtc, program, "CUBIN" if architecture.startswith("sm_") else "PTX")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _strings(values: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(values))(*values)


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, kind: str) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)), f"nvrtcGet{kind}Size")
    text = ctypes.create_string_buffer(size.value)
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{kind}")(program, text), f"nvrtcGet{kind}")
    return text.raw


def _check(nvrtc: ctypes.CDLL, code: int, what: str, log: str = "") -> None:
    if code:
        reason = nvrtc.nvrtcGetErrorString(code).decode()
        raise RuntimeUnavailable(f"NVRTC: {what} failed: {reason}\n{log[-2000:]}".rstrip())
