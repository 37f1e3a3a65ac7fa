"""TensorRT or TensorRT-RTX, whichever built the engine for this machine's GPU. Not run on hardware yet.

The bundle's ONNX file lies beside its engines and is what the runtime is given; the engine is found by the records of
those that came with the bundle or were built on this device. A frame is copied into page-locked memory, and from there
to the GPU, through the engine and back on one stream, which is recorded once as a CUDA graph and replayed. Each
tensor's memory is allocated when the model is opened, none while it runs, but for the arrays that the caller gets.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from cuda.bindings import runtime as cuda_runtime

from rs4d_edge.errors import ClosedError, InputError, RuntimeFailure
from rs4d_edge.runtimes.contract import Array, TensorSpec, check_feeds, check_file
from rs4d_edge.runtimes.tensorrt_cuda import Cuda
from rs4d_edge.runtimes.tensorrt_engine import (
    EngineLog,
    open_context,
    register_needed_plugins,
    tensor_specs,
)
from rs4d_edge.runtimes.tensorrt_identity import find_engine, read_engine
from rs4d_edge.runtimes.tensorrt_memory import allocate
from rs4d_edge.runtimes.tensorrt_record import EngineRecord

PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")  # which it is stands in the engine


def open_model(model_path: Path, *, threads: int | None, precision: str) -> TensorRtRuntime:
    """Load the engine for this GPU that lies beside the ONNX file `model_path`; `threads` mean nothing on a GPU.

    What the engine was built for is compared with this machine before TensorRT is given it. Raises InputError,
    RuntimeUnavailable (no GPU, driver, library or memory), BundleError (no engine for this machine, or a damaged one)
    or RuntimeFailure (TensorRT refuses the engine).
    """
    check_file(model_path)
    if precision not in PRECISIONS:
        raise InputError(
            f"engines run in {', '.join(PRECISIONS)}, not in {precision!r}; export with --precision fp16 or int8"
        )
    cuda = Cuda(cuda_runtime)
    found = find_engine(model_path, cuda.gpu())
    content = read_engine(found.folder, found.record)
    cuda.select()
    return TensorRtRuntime(content, found.record, found.trt, cuda)


class TensorRtRuntime:
    """One engine in one execution context. Follows `rs4d_edge.runtimes.contract.Runtime`.

    `trt` is the engine's own library and `content` its file, which fit this machine (see `open_model`).
    """

    def __init__(self, content: bytes, record: EngineRecord, trt: Any, cuda: Cuda) -> None:
        self._cuda = cuda
        self._log = EngineLog(trt)
        self._graph: Any = None
        register_needed_plugins(trt, record)
        with ExitStack() as opened:
            self._stream = cuda.stream(opened)
            self._inputs = allocate(cuda, tensor_specs(record.inputs), opened)
            self._outputs = allocate(cuda, tensor_specs(record.outputs), opened)
            self._context: Any = open_context(trt, content, record, self._log, cuda)
            self._bind()
            self._enqueue()  # a first run outside the graph: kernels are compiled and loaded, which none may record
            cuda.synchronize(self._stream)
            self._record(record.engine, opened)
            # Whoever forgets `close` gets the memory back with the object; when the process ends, the driver takes it.
            self._release = weakref.finalize(self, opened.pop_all().close)
            self._release.atexit = False

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be fed."""
        return tuple(tensor.spec for tensor in self._inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` answers with."""
        return tuple(tensor.spec for tensor in self._outputs)

    @property
    def graph_recorded(self) -> bool:
        """Whether frames replay a CUDA graph; else each call is made anew, and a warning said why."""
        return self._graph is not None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Runtime.run`."""
        if self._context is None:
            raise ClosedError("this TensorRT engine was closed; open another")
        check_feeds(self.inputs, feeds)
        for tensor in self._inputs:
            np.copyto(tensor.host, feeds[tensor.spec.name])
        if self._graph is None:
            self._enqueue()
        else:
            self._cuda.replay(self._graph, self._stream)
        self._cuda.synchronize(self._stream)
        return {tensor.spec.name: tensor.host.copy() for tensor in self._outputs}

    def close(self) -> None:
        """Free the engine, the graph and all memory."""
        self._context = self._graph = None
        self._release()

    def _bind(self) -> None:
        for tensor in (*self._inputs, *self._outputs):
            if not self._context.set_tensor_address(tensor.spec.name, tensor.device_address):
                raise RuntimeFailure(f"TensorRT takes no address for {tensor.spec}: {self._log.taken()}")

    def _enqueue(self) -> None:
        """Put a frame's work onto the stream: inputs to the GPU, the engine, outputs back."""
        for tensor in self._inputs:
            self._cuda.copy_to_device(tensor.device_address, tensor.host_address, tensor.host.nbytes, self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise RuntimeFailure(f"TensorRT failed while running the engine: {self._log.taken()}")
        for tensor in self._outputs:
            self._cuda.copy_to_host(tensor.host_address, tensor.device_address, tensor.host.nbytes, self._stream)

    def _record(self, engine: str, opened: ExitStack) -> None:
        try:
            self._graph = self._cuda.record(self._stream, self._enqueue, opened)
        except RuntimeFailure as error:
            warnings.warn(
                f"{engine} cannot be recorded as a CUDA graph, so that each frame's calls are made anew, which is "
                f"slower: {error}",
                RuntimeWarning,
                stacklevel=4,
            )
