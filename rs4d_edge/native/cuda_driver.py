"""One GPU through CUDA's driver interface, which every NVIDIA driver brings: load compiled kernels and launch them.

Called by ctypes, so that nothing is compiled against torch or CUDA's headers, and on the device's primary context,
which torch, TensorRT and the CUDA runtime share: their addresses and streams may be passed as they are.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rs4d_edge.errors import RuntimeFailure, RuntimeUnavailable

DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76  # CUdevice_attribute
_ANY, _INT, _UNSIGNED = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (_UNSIGNED,),
    "cuGetErrorString": (_INT, _ANY),
    "cuDeviceGet": (_ANY, _INT),
    "cuDeviceGetAttribute": (_ANY, _INT, _INT),
    "cuDevicePrimaryCtxRetain": (_ANY, _INT),
    "cuCtxPushCurrent_v2": (_ANY,),
    "cuCtxPopCurrent_v2": (_ANY,),
    "cuModuleLoadData": (_ANY, _ANY),
    "cuModuleGetFunction": (_ANY, _ANY, ctypes.c_char_p),
    "cuLaunchKernel": (_ANY, *[_UNSIGNED] * 7, _ANY, _ANY, _ANY),
}

Address = ctypes.c_void_p  # of device memory, as a kernel's argument
Arguments = Sequence[ctypes.c_void_p | ctypes.c_int]


class CudaDriver:
    """The GPU with the given ordinal, counted as torch does (within CUDA_VISIBLE_DEVICES).

    Raises:
        RuntimeUnavailable: no driver is installed, or it has no such device.
    """

    def __init__(self, ordinal: int = 0, library: str = DRIVER_LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise RuntimeUnavailable(
                f"no CUDA driver: {library} does not load ({error}); install NVIDIA's driver, or run on the CPU"
            ) from error
        for name, types in _SIGNATURES.items():
            getattr(self._library, name).argtypes = types
        device, context = ctypes.c_int(), ctypes.c_void_p()
        try:
            self._call("cuInit", 0)
            self._call("cuDeviceGet", ctypes.byref(device), ordinal)
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        except RuntimeFailure as error:
            raise RuntimeUnavailable(f"CUDA device {ordinal} cannot be used: {error}") from error
        self._device, self._context = device, context
        self.multiprocessors = self._attribute(_MULTIPROCESSORS)
        self.architecture = f"sm_{self._attribute(_MAJOR)}{self._attribute(_MINOR)}"

    def load(self, image: bytes) -> CudaKernels:
        """The kernels of a fat binary, a cubin or PTX.

        Raises:
            RuntimeFailure: the driver refuses it, for instance because it holds no code for this GPU.
        """
        module, text = ctypes.c_void_p(), ctypes.create_string_buffer(image)  # PTX must end with a zero
        with self._current():
            self._call("cuModuleLoadData", ctypes.byref(module), text)
        return CudaKernels(self, module)

    def function(self, module: ctypes.c_void_p, name: str) -> ctypes.c_void_p:
        """A kernel of a loaded module. Raises RuntimeFailure where the module has no kernel of that name."""
        function = ctypes.c_void_p()
        with self._current():
            self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        return function

    def launch(
        self,
        function: ctypes.c_void_p,
        grid: tuple[int, int, int],
        threads: int,
        arguments: Arguments,
        stream: int,
    ) -> None:
        """Put a kernel onto a stream (its handle as a number, 0 for the default one) and return at once."""
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(x) for x in arguments))
        with self._current():
            self._call("cuLaunchKernel", function, *grid, threads, 1, 1, 0, stream, pointers, None)

    @contextmanager
    def _current(self) -> Iterator[None]:
        """The primary context on this thread, whatever the thread used before."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            popped = ctypes.c_void_p()
            self._call("cuCtxPopCurrent_v2", ctypes.byref(popped))

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            raise RuntimeFailure(f"CUDA's {name} failed with {code}: {(text.value or b'unknown error').decode()}")


class CudaKernels:
    """The kernels of one loaded module, by name. It stays loaded as long as the process runs."""

    def __init__(self, driver: CudaDriver, module: ctypes.c_void_p) -> None:
        self.driver = driver
        self._module = module
        self._functions: dict[str, ctypes.c_void_p] = {}

    def launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        threads: int,
        arguments: Arguments,
        stream: int,
    ) -> None:
        """Put the kernel `name` onto `stream`; see `CudaDriver.launch`."""
        if name not in self._functions:
            self._functions[name] = self.driver.function(self._module, name)
        self.driver.launch(self._functions[name], grid, threads, arguments, stream)
