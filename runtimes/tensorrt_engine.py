"""From an engine's bytes to an execution context, in `tensorrt` or `tensorrt_rtx`. Not run on hardware yet."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from rs4d_edge.errors import BundleError, RuntimeFailure, RuntimeUnavailable
from rs4d_edge.runtimes.contract import TensorSpec
from rs4d_edge.runtimes.tensorrt_cuda import ON_THE_CPU, Cuda
from rs4d_edge.runtimes.tensorrt_plugins import QUALIFIED_NAMES, register_plugins
from rs4d_edge.runtimes.tensorrt_record import EngineRecord, EngineTensor

_LIBRARIES = {  # how each comes to a device
    "tensorrt_rtx": 'run: pip install "tensorrt-rtx=={version}"',
    "tensorrt": "on a Jetson it comes with JetPack; elsewhere run: pip install tensorrt=={version}",
}


def import_library(record: EngineRecord) -> Any:
    """The module of the library that built the engine. Raises RuntimeUnavailable with how to install it."""
    if record.library not in _LIBRARIES:
        raise BundleError(f"{record.engine} was built by {record.library!r}; known are {', '.join(_LIBRARIES)}")
    try:
        return importlib.import_module(record.library)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == record.library
        problem = "is not installed" if missing else f"does not import: {error}"
        remedy = _LIBRARIES[record.library].format(version=record.version)
        raise RuntimeUnavailable(
            f"{record.engine} was built for {record.library} {record.version}, which {problem}; {remedy}, {ON_THE_CPU}"
        ) from error


class EngineLog:
    """TensorRT's errors, for the messages of ours. `logger` is what its classes are given."""

    def __init__(self, trt: Any) -> None:
        self._errors: list[str] = []
        self.logger = _logger_class(trt)(self._errors)

    def taken(self) -> str:
        """What it said since this was last asked."""
        errors = " | ".join(self._errors) or "TensorRT gave no reason"
        self._errors.clear()
        return errors


def register_needed_plugins(trt: Any, record: EngineRecord) -> None:
    """Make known what the engine needs. Raises BundleError for a plugin that is not ours."""
    unknown = [name for name in record.plugins if name not in QUALIFIED_NAMES]
    if unknown:
        known = ", ".join(QUALIFIED_NAMES)
        raise BundleError(f"{record.engine} needs the plugin {unknown[0]!r}, this rs4d-edge has {known}")
    if record.plugins:
        register_plugins(trt)


def open_context(trt: Any, content: bytes, record: EngineRecord, log: EngineLog, cuda: Cuda) -> Any:
    """An execution context of the engine in `content`; it keeps the engine alive.

    Raises RuntimeFailure if TensorRT refuses the engine, BundleError if its tensors are not the recorded ones,
    RuntimeUnavailable if there is no memory for the context.
    """
    engine = trt.Runtime(log.logger).deserialize_cuda_engine(content)
    if engine is None:
        raise RuntimeFailure(f"{record.library} {record.version} does not load {record.engine}: {log.taken()}")
    _check_tensors(trt, engine, record)
    context = engine.create_execution_context()
    if context is None:
        needed = f"{record.activations_bytes / 1e6:.1f} MB" if record.activations_bytes else "memory"
        raise RuntimeUnavailable(
            f"{record.library} cannot make a context for {record.engine}, which needs {needed} for activations, "
            f"{cuda.free_bytes() / 1e6:.1f} MB are free on the GPU: {log.taken()}; end what else uses it, {ON_THE_CPU}"
        )
    return context


def tensor_specs(tensors: Iterable[EngineTensor]) -> tuple[TensorSpec, ...]:
    """Recorded tensors as a runtime's own."""
    return tuple(TensorSpec(each.name, np.dtype(each.dtype), each.shape) for each in tensors)


def _check_tensors(trt: Any, engine: Any, record: EngineRecord) -> None:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {
        (
            engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            EngineTensor(
                name=name,
                dtype=trt.nptype(engine.get_tensor_dtype(name)).__name__,
                shape=tuple(engine.get_tensor_shape(name)),
            ),
        )
        for name in names
    }
    recorded = {(True, each) for each in record.inputs} | {(False, each) for each in record.outputs}
    if found != recorded:
        differing = sorted({tensor.name for _, tensor in found ^ recorded})
        raise BundleError(
            f"{record.engine} and its record differ in {', '.join(differing)}: they do not belong together; copy or "
            "export the bundle again"
        )


def _logger_class(trt: Any) -> type[Any]:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the base is known only at run time
        def __init__(self, errors: list[str]) -> None:
            trt.ILogger.__init__(self)
            self._errors = errors

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self._errors.append(message.strip())

    return Logger
