"""The few calls of CUDA's runtime that an engine needs: memory, one stream, a recorded graph. Not run on hardware yet.

`Cuda` is given cuda-python's module `cuda.bindings.runtime`, and is all that knows of it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

from rs4d_edge.errors import RuntimeFailure, RuntimeUnavailable

ON_THE_CPU = 'or run the same graph on the CPU: Predictor(bundle, runtime="onnxruntime")'
_SUCCESS, _OUT_OF_MEMORY = 0, 2  # cudaError_t


class Gpu(NamedTuple):
    """The GPU at hand: its name, compute capability ("8.6"), and the newest CUDA that its driver knows ("13.0")."""

    name: str
    compute_capability: str
    driver_cuda: str
    integrated: bool = False  # its memory is the machine's, as on a Jetson

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability}, driver for CUDA {self.driver_cuda})"


class Cuda:
    """The first GPU within CUDA_VISIBLE_DEVICES, the one that TensorRT and our plugin use.

    What is acquired is released by the `opened` stack that each method is given. Raises RuntimeFailure with CUDA's own
    words where a call fails, RuntimeUnavailable where there is no GPU or no memory left on it.
    """

    def __init__(self, api: Any) -> None:
        self._api = api
        self._to_device = api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._to_host = api.cudaMemcpyKind.cudaMemcpyDeviceToHost

    def gpu(self) -> Gpu:
        """Which GPU this is."""
        try:
            code, count = self._api.cudaGetDeviceCount()
        except RuntimeError as error:  # from cuda-python 12 without a driver; 13 answers with an error
            raise _no_gpu(str(error), "") from error
        if code != _SUCCESS or not count:
            raise _no_gpu(self._text(code) if code != _SUCCESS else "no device", self._driver_cuda())
        properties = self._call("cudaGetDeviceProperties", 0)
        name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        return Gpu(name, f"{properties.major}.{properties.minor}", self._driver_cuda(), bool(properties.integrated))

    def select(self) -> None:
        """Use it on this thread; CUDA takes some memory for that."""
        self._call("cudaSetDevice", 0)

    def free_bytes(self) -> int:
        """Memory of the GPU that nobody uses."""
        code, free, _ = self._api.cudaMemGetInfo()
        return int(free) if code == _SUCCESS else 0

    def device_memory(self, size: int, opened: ExitStack) -> int:
        """The address of `size` bytes on the GPU."""
        return int(self._acquired(self._allocated("cudaMalloc", size), "cudaFree", opened))

    def pinned_memory(self, size: int, opened: ExitStack) -> int:
        """The address of `size` bytes of page-locked memory, which the GPU copies without a detour."""
        flags = self._api.cudaHostAllocDefault
        return int(self._acquired(self._allocated("cudaHostAlloc", size, flags), "cudaFreeHost", opened))

    def stream(self, opened: ExitStack) -> Any:
        """A stream that does not wait for the default one; `int` of it is its handle."""
        stream = self._call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking)
        opened.callback(self._release, "cudaStreamDestroy", stream)
        return stream

    def copy_to_device(self, device: int, host: int, size: int, stream: Any) -> None:
        """Put a copy of `size` bytes onto `stream`."""
        self._call("cudaMemcpyAsync", device, host, size, self._to_device, stream)

    def copy_to_host(self, host: int, device: int, size: int, stream: Any) -> None:
        """Put a copy of `size` bytes onto `stream`."""
        self._call("cudaMemcpyAsync", host, device, size, self._to_host, stream)

    def synchronize(self, stream: Any) -> None:
        """Wait until all that was put onto `stream` is done."""
        self._call("cudaStreamSynchronize", stream)

    def record(self, stream: Any, work: Callable[[], None], opened: ExitStack) -> Any:
        """What `work` puts onto `stream`, as a graph that `replay` starts by one call. Nothing is run yet.

        Raises RuntimeFailure if it cannot be recorded; `stream` may be used as before then.
        """
        self._call("cudaStreamBeginCapture", stream, self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        except BaseException:
            code, graph = self._api.cudaStreamEndCapture(stream)  # a stream that still records cannot run anything
            if code == _SUCCESS:
                self._release("cudaGraphDestroy", graph)
            self._api.cudaGetLastError()  # else the next call that asks would be told of this failure
            raise
        try:
            graph = self._acquired(self._call("cudaStreamEndCapture", stream), "cudaGraphDestroy", opened)
            return self._acquired(self._call("cudaGraphInstantiate", graph, 0), "cudaGraphExecDestroy", opened)
        except RuntimeFailure:
            self._api.cudaGetLastError()  # as above
            raise

    def replay(self, graph: Any, stream: Any) -> None:
        """Put a recorded graph onto `stream`."""
        self._call("cudaGraphLaunch", graph, stream)

    def _driver_cuda(self) -> str:
        code, version = self._api.cudaDriverGetVersion()
        return f"{version // 1000}.{version % 1000 // 10}" if code == _SUCCESS and version else ""

    def _allocated(self, name: str, size: int, *flags: Any) -> Any:
        code, address = getattr(self._api, name)(size, *flags)
        if code == _OUT_OF_MEMORY:
            self._api.cudaGetLastError()
            raise RuntimeUnavailable(
                f"out of memory: CUDA's {name} has no {size / 1e6:.1f} MB, {self.free_bytes() / 1e6:.1f} MB are free "
                f"on the GPU; end what else uses it, {ON_THE_CPU}"
            )
        self._check(name, code)
        return address

    def _acquired(self, resource: Any, release: str, opened: ExitStack) -> Any:
        opened.callback(self._release, release, resource)
        return resource

    def _release(self, name: str, resource: Any) -> None:
        # After a failed kernel every call answers with that failure, and there is nothing else to do about it.
        getattr(self._api, name)(resource)

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *values = getattr(self._api, name)(*arguments)
        self._check(name, code)
        return values[0] if values else None

    def _check(self, name: str, code: Any) -> None:
        if code != _SUCCESS:
            raise RuntimeFailure(f"CUDA's {name} failed with {int(code)}: {self._text(code)}")

    def _text(self, code: Any) -> str:
        _, text = self._api.cudaGetErrorString(code)
        return text.decode() if isinstance(text, bytes) else str(text)


def cuda_of_this_machine() -> Cuda:
    """Raises RuntimeUnavailable without cuda-python."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise RuntimeUnavailable(
            f"CUDA is called through the package cuda-python, which cannot be imported ({error}); on a Jetson run: "
            'pip install "rs4d-edge[jetson]", on a PC: pip install "rs4d-edge[tensorrt-rtx]"'
        ) from error
    return Cuda(runtime)


def _no_gpu(reason: str, driver_cuda: str) -> RuntimeUnavailable:
    knows = f"the driver is for CUDA {driver_cuda}" if driver_cuda else "no driver is installed"
    return RuntimeUnavailable(
        f"no NVIDIA GPU can be used here: {reason}; {knows}. Install NVIDIA's driver, and a cuda-python no newer than "
        f"its CUDA, {ON_THE_CPU}"
    )
