"""`cuda.bindings.runtime` without a GPU: memory that is copied, a stream that runs late, graphs, and a list of calls.

As there, each function answers with a tuple that begins with its error, and what is put onto a stream is done when the
stream is waited for, or written into the graph that is being recorded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

Work = Callable[[], object]


class Error(IntEnum):
    """Of cudaError_t."""

    SUCCESS = 0
    OUT_OF_MEMORY = 2
    NO_DEVICE = 100
    LAUNCH_FAILED = 719
    NOT_RECORDED = 901


class CudaStandIn:
    """One GPU. `calls` are the functions called, `fail` the errors that functions are to give, `live` what is held."""

    # CUDA's own names
    cudaHostAllocDefault = 0  # noqa: N815
    cudaStreamNonBlocking = 1  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self, capability: tuple[int, int] = (8, 6), driver: int = 13000) -> None:
        self.capability, self.driver = capability, driver
        self.name, self.integrated = b"Stand-in GPU", 0
        self.calls: list[str] = []
        self.fail: dict[str, Error] = {}
        self.live: dict[tuple[str, int], Any] = {}
        self.queue: list[Work] = []
        self.recording: list[Work] | None = None
        self.replays = 0

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(value) or name == "cudaGetErrorString":
            return value

        def called(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            error = self.fail.get(name)
            if error is None:
                result: tuple[Any, ...] = value(*arguments)
                return result
            if name == "cudaStreamEndCapture":
                self.recording = None
            return (error, *[None] * {"cudaMemGetInfo": 2}.get(name, 1))

        return called

    def put(self, work: Work) -> None:
        """Onto the stream, or into the graph."""
        (self.queue if self.recording is None else self.recording).append(work)

    def _hold(self, kind: str, thing: Any) -> int:
        key = ctypes.addressof(thing) if isinstance(thing, ctypes.Array) else id(thing)
        self.live[kind, key] = thing
        return key

    def _drop(self, kind: str, key: Any) -> tuple[Error]:
        del self.live[kind, int(key)]  # KeyError: freed twice, or never held
        return (Error.SUCCESS,)

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return Error.SUCCESS, Error(error).name.lower().replace("_", " ").encode()

    def cudaGetLastError(self) -> tuple[Error]:
        return (Error.SUCCESS,)

    def cudaGetDeviceCount(self) -> tuple[Error, int]:
        return Error.SUCCESS, 1

    def cudaSetDevice(self, device: int) -> tuple[Error]:
        return (Error.SUCCESS,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Error, Any]:
        major, minor = self.capability
        return Error.SUCCESS, SimpleNamespace(name=self.name, major=major, minor=minor, integrated=self.integrated)

    def cudaDriverGetVersion(self) -> tuple[Error, int]:
        return Error.SUCCESS, self.driver

    def cudaMemGetInfo(self) -> tuple[Error, int, int]:
        return Error.SUCCESS, 3_000_000, 8_000_000

    def cudaMalloc(self, size: int) -> tuple[Error, int]:
        return Error.SUCCESS, self._hold("device", (ctypes.c_ubyte * size)())

    def cudaFree(self, address: int) -> tuple[Error]:
        return self._drop("device", address)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Error, int]:
        return Error.SUCCESS, self._hold("pinned", (ctypes.c_ubyte * size)())

    def cudaFreeHost(self, address: int) -> tuple[Error]:
        return self._drop("pinned", address)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, int]:
        return Error.SUCCESS, self._hold("stream", object())

    def cudaStreamDestroy(self, stream: int) -> tuple[Error]:
        return self._drop("stream", stream)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> tuple[Error]:
        towards = ("device", "pinned") if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else ("pinned", "device")
        for side, address in zip(towards, (to, source), strict=True):
            assert len(self.live[side, address]) == size  # KeyError: an address of the other kind
        self.put(lambda: ctypes.memmove(to, source, size))
        return (Error.SUCCESS,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Error]:
        assert self.recording is None, "a stream that records cannot be waited for"
        queued, self.queue = self.queue, []
        for work in queued:
            work()
        return (Error.SUCCESS,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Error]:
        assert not self.queue, "recorded before the first run was done"
        self.recording = []
        return (Error.SUCCESS,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Error, int]:
        assert self.recording is not None
        graph, self.recording = list(self.recording), None
        return Error.SUCCESS, self._hold("graph", graph)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Error, int]:
        return Error.SUCCESS, self._hold("executable", list(self.live["graph", graph]))

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[Error]:
        self.replays += 1
        self.queue.extend(self.live["executable", executable])
        return (Error.SUCCESS,)

    def cudaGraphDestroy(self, graph: int) -> tuple[Error]:
        return self._drop("graph", graph)

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Error]:
        return self._drop("executable", executable)
