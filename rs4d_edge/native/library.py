"""Find, load and call the native scan through ctypes. Needs numpy alone; arrays are passed as addresses."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import NamedTuple

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.native.build import LIBRARY_NAME, SOURCE_DIR

ABI_VERSION = 3  # RS4D_ABI_VERSION of scan.h
HIDE_VARIABLE = "RS4D_NO_NATIVE"
_CODES = {1: "bad shape", 2: "more states than the kernel's buffers hold", 3: "instruction set not available here"}


class NativeUnavailable(RuntimeUnavailable):
    """The native library is not built, does not load, or is of another version: the plain forms do the work."""


class ScanShape(NamedTuple):
    """Sizes of a scan: u is (batch, length, channels), a is (channels, states)."""

    batch: int
    length: int
    channels: int
    states: int


class _Inputs(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("u", "delta", "a", "b", "c", "d")),
        *((name, ctypes.c_int64) for name in ("batch", "length", "channels", "states")),
        ("reverse", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    ]


class _Gradients(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("u", "delta", "a", "b", "c", "d")]


class MixerShape(NamedTuple):
    """Sizes of a mixer's core: tokens (batch, length), inner width, states, rank of the step size, conv width."""

    batch: int
    length: int
    channels: int
    states: int
    rank: int
    taps: int


_MIXER_ARRAYS = ("uz", "conv_weight", "conv_bias", "x_proj", "dt_proj", "dt_bias", "a", "d")


class _MixerInputs(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in _MIXER_ARRAYS),
        *((name, ctypes.c_int64) for name in MixerShape._fields),
        ("threads", ctypes.c_int32),
    ]


class NativeScan:
    """The loaded library. Addresses point to dense fp32 arrays that the caller keeps alive; order u, delta, a, b, c, d.

    Calls release the interpreter lock and may run at the same time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        library = ctypes.CDLL(str(path))
        library.rs4d_isa.restype = ctypes.c_char_p
        library.rs4d_scan_workspace.restype = ctypes.c_int64
        library.rs4d_scan_forward.argtypes = [ctypes.POINTER(_Inputs), ctypes.c_void_p]
        library.rs4d_scan_bidirectional.argtypes = [ctypes.POINTER(_Inputs), ctypes.POINTER(ctypes.c_void_p)]
        library.rs4d_scan_workspace.argtypes = [ctypes.POINTER(_Inputs)]
        gradients = ctypes.POINTER(_Gradients)
        library.rs4d_scan_backward.argtypes = [ctypes.POINTER(_Inputs), ctypes.c_void_p, gradients, ctypes.c_void_p]
        library.rs4d_mixer_workspace.restype = ctypes.c_int64
        library.rs4d_mixer_workspace.argtypes = [ctypes.POINTER(_MixerInputs)]
        library.rs4d_mixer_core.argtypes = [ctypes.POINTER(_MixerInputs), ctypes.c_void_p, ctypes.c_void_p]
        self._library = library
        if library.rs4d_abi_version() != ABI_VERSION:
            raise NativeUnavailable(
                f"{path} has interface version {library.rs4d_abi_version()}, this package needs {ABI_VERSION}: "
                "run `python -m rs4d_edge.native.build`"
            )

    @property
    def isa(self) -> str:
        """The instruction set in use: avx512, avx2, neon, sse2 or plain."""
        return str(self._library.rs4d_isa().decode())

    def select_isa(self, name: str) -> None:
        """Force an instruction set for this process; "auto" goes back to the best. For tests and comparisons."""
        self._check(self._library.rs4d_select_isa(name.encode()), name)

    def forward(
        self, inputs: tuple[int, ...], shape: ScanShape, y: int, *, reverse: bool = False, threads: int = 0
    ) -> None:
        """Write y (batch, length, channels) at the address `y`. `threads` 0 takes the machine's default."""
        arguments = _Inputs(*inputs, *shape, reverse, threads)
        self._check(self._library.rs4d_scan_forward(ctypes.byref(arguments), y), str(shape))

    def bidirectional(
        self,
        inputs: tuple[tuple[int, ...], tuple[int, ...]],
        shape: ScanShape,
        y: tuple[int, int],
        *,
        reverse: tuple[bool, bool] = (False, True),
        threads: int = 0,
    ) -> None:
        """Two scans of one shape at the same time, each with its own arrays: `inputs[i]` are scanned into `y[i]`."""
        pair = (_Inputs * 2)(*(_Inputs(*inputs[i], *shape, reverse[i], threads) for i in (0, 1)))
        self._check(self._library.rs4d_scan_bidirectional(pair, (ctypes.c_void_p * 2)(*y)), str(shape))

    def workspace_floats(self, shape: ScanShape, *, threads: int = 0) -> int:
        """Floats of workspace that `backward` needs."""
        arguments = _Inputs(None, None, None, None, None, None, *shape, 0, threads)
        floats = int(self._library.rs4d_scan_workspace(ctypes.byref(arguments)))
        self._check(max(0, -floats), str(shape))
        return floats

    def backward(
        self,
        inputs: tuple[int, ...],
        shape: ScanShape,
        grad_y: int,
        gradients: tuple[int, ...],
        workspace: int,
        *,
        reverse: bool = False,
        threads: int = 0,
    ) -> None:
        """Write the gradients of sum(y * grad_y) at the six addresses `gradients`, in the inputs' order and shapes."""
        arguments, outputs = _Inputs(*inputs, *shape, reverse, threads), _Gradients(*gradients)
        code = self._library.rs4d_scan_backward(ctypes.byref(arguments), grad_y, ctypes.byref(outputs), workspace)
        self._check(code, str(shape))

    def mixer_workspace_floats(self, shape: MixerShape, *, threads: int = 0) -> int:
        """Floats of workspace that `mixer_core` needs."""
        arguments = _MixerInputs(*[None] * len(_MIXER_ARRAYS), *shape, threads)
        floats = int(self._library.rs4d_mixer_workspace(ctypes.byref(arguments)))
        self._check(max(0, -floats), str(shape))
        return floats

    def mixer_core(
        self, inputs: tuple[int, ...], shape: MixerShape, y: int, workspace: int, *, threads: int = 0
    ) -> None:
        """Write y (batch, length, channels): all of a mixer between in_proj and out_proj, both directions averaged.

        `inputs` are the addresses of uz (batch, length, 2 channels), conv weight (channels, taps) and bias, x_proj
        (rank + 2 states, channels), dt_proj (channels, rank) and its bias, a (channels, states) and d (channels).
        """
        arguments = _MixerInputs(*inputs, *shape, threads)
        self._check(self._library.rs4d_mixer_core(ctypes.byref(arguments), y, workspace), str(shape))

    @staticmethod
    def _check(code: int, what: str) -> None:
        if code:
            raise RuntimeUnavailable(f"native scan: {_CODES.get(code, f'error {code}')} ({what})")


@functools.cache
def _open(path: Path) -> NativeScan:
    if not path.is_file():
        raise NativeUnavailable(f"{path} is not there: run `python -m rs4d_edge.native.build` (needs g++ or clang++)")
    try:
        return NativeScan(path)
    except (OSError, AttributeError) as error:
        raise NativeUnavailable(f"{path} does not load: {error}; run `python -m rs4d_edge.native.build`") from error


def native_hidden() -> bool:
    """Whether the environment variable RS4D_NO_NATIVE hides the library."""
    return os.environ.get(HIDE_VARIABLE, "0") not in ("", "0")


def load_native_scan() -> NativeScan:
    """The library, loaded once per process.

    Raises:
        NativeUnavailable: it is not built or does not load, or RS4D_NO_NATIVE hides it; the message says which.
    """
    if native_hidden():
        raise NativeUnavailable(f"hidden by the environment variable {HIDE_VARIABLE}")
    return _open(SOURCE_DIR / LIBRARY_NAME)


def native_scan_or_none() -> NativeScan | None:
    """The library, or None where it is unavailable."""
    try:
        return load_native_scan()
    except NativeUnavailable:
        return None
