"""`tensorrt_rtx` without a GPU: an engine's file names one of `tiny_models`, which numpy computes on the stand-in."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rs4d_edge.contract import INPUT_NAMES, OUTPUT_NAMES
from rs4d_edge.runtimes.table import RUNTIMES, open_runtime
from rs4d_edge.runtimes.tensorrt_host import platform_name
from rs4d_edge.runtimes.tensorrt_record import EngineRecord, EngineTensor
from tests.runtimes.cuda_stand_in import CudaStandIn
from tests.runtimes.tiny_models import CONTRACT, Scans, Sums

MODELS: dict[str, type[Sums] | type[Scans]] = {"sums": Sums, "scans": Scans}
LIBRARY, VERSION = "tensorrt_rtx", "1.7.1.116"
_TYPES = ("uint8", "int64", "float32", "float32", "int64", "float32")
DTYPES = dict(zip((*INPUT_NAMES, *OUTPUT_NAMES), _TYPES, strict=True))


def tensors(shapes: dict[str, tuple[int, ...]]) -> tuple[EngineTensor, ...]:
    return tuple(EngineTensor(name=name, dtype=DTYPES[name], shape=shape) for name, shape in shapes.items())


def write_engine(folder: Path, model: str = "sums", capability: str = "8.6", **changes: Any) -> Path:
    """A graph's place, and beside it an engine and its record with `changes`; answers with the graph's path."""
    content = f"engine {model}".encode()
    graph = folder / f"{model}.onnx"
    graph.touch()
    folder = folder / changes.pop("within", ".")
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{model}-sm{capability.replace('.', '')}"
    (folder / f"{stem}.engine").write_bytes(content)
    fields: dict[str, Any] = {
        "engine": f"{stem}.engine",
        "model": graph.name,
        "library": LIBRARY,
        "version": VERSION,
        "compute_capability": capability,
        "platform": platform_name(),
        "inputs": tensors(CONTRACT.input_shapes),
        "outputs": tensors(CONTRACT.output_shapes),
        "size_bytes": len(content),
        "engine_sha256": hashlib.sha256(content).hexdigest(),
        "model_sha256": hashlib.sha256(b"").hexdigest(),
        "activations_bytes": 2_000_000,
    }
    (folder / f"{stem}.json").write_text(EngineRecord(**(fields | changes)).model_dump_json())
    return graph


class _Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class _Logger:
    Severity = _Severity

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class _Context:
    def __init__(self, trt: TensorRtStandIn, model: str, log: _Logger) -> None:
        self._trt, self._model, self._log = trt, MODELS[model], log
        self._addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return name in DTYPES

    def execute_async_v3(self, stream: int) -> bool:
        cuda = self._trt.cuda
        cuda.calls.append("execute")
        assert ("stream", stream) in cuda.live
        if self._trt.enqueue_fails(cuda.recording is not None):
            self._log.log(_Severity.WARNING, "not a reason")
            self._log.log(_Severity.ERROR, "the kernel said no ")
            return False
        cuda.put(self._compute)
        return True

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Any:
        memory = self._trt.cuda.live["device", self._addresses[name]]
        return np.frombuffer(memory, dtype=DTYPES[name]).reshape(shape)

    def _compute(self) -> None:
        given = {name: self._tensor(name, shape) for name, shape in CONTRACT.input_shapes.items()}
        answer = self._model.answer(given)
        for name, shape in CONTRACT.output_shapes.items():
            self._tensor(name, shape)[...] = answer[name]


class _Engine:
    def __init__(self, trt: TensorRtStandIn, model: str, log: _Logger) -> None:
        self._trt, self._model, self._log = trt, model, log
        self._shapes = CONTRACT.input_shapes | CONTRACT.output_shapes
        self.num_io_tensors = len(DTYPES)

    def get_tensor_name(self, index: int) -> str:
        return list(DTYPES)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in INPUT_NAMES else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return DTYPES[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def create_execution_context(self) -> _Context | None:
        return _Context(self._trt, self._model, self._log) if self._trt.memory_for_contexts else None


class TensorRtStandIn(ModuleType):
    """The module. `enqueue_fails` is asked at each call, with whether it is being recorded."""

    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    ILogger = _Logger

    def __init__(self, cuda: CudaStandIn, name: str = LIBRARY, version: str = VERSION) -> None:
        super().__init__(name)
        self.__version__ = version
        self.cuda = cuda
        self.memory_for_contexts = True
        self.deserialized = 0
        self.enqueue_fails: Callable[[bool], bool] = lambda recording: False

    def nptype(self, dtype: str) -> Any:
        return np.dtype(dtype).type

    def Runtime(self, log: _Logger) -> Any:
        def deserialize(content: bytes) -> _Engine | None:
            self.deserialized += 1
            if content.startswith(b"engine "):
                return _Engine(self, content.decode().split()[1], log)
            log.log(_Severity.ERROR, "magic tag does not match")
            return None

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class Machine:
    """A machine with a GPU, CUDA and TensorRT, of which none is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cuda = CudaStandIn()
        self.trt = TensorRtStandIn(self.cuda)
        bindings: Any = ModuleType("cuda.bindings")
        bindings.runtime = self.cuda
        for name, module in (("cuda", ModuleType("cuda")), ("cuda.bindings", bindings), ("tensorrt_rtx", self.trt)):
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, RUNTIMES["tensorrt"].module, raising=False)

    def open(self, path: Path, **options: Any) -> Any:
        return open_runtime("tensorrt", path, **options)
