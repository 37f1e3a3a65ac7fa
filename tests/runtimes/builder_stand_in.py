"""A `tensorrt` that builds without a GPU and behaves as it is told, for the process that builds engines.

`install` puts it where both processes find it. Its engine is a line of JSON with what the builder was asked for.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.helper
import pytest
from onnx import TensorProto

from rs4d_edge.bundle import write_bundle
from rs4d_edge.manifest import WeightsRecord
from tests.runtimes.tiny_models import CONTRACT
from tests.stand_ins import golden_frame, parity, square_detections

VERSION = "10.3.0"
BEHAVIOUR = "RS4D_TEST_BUILDER"
_MODULE = """
import json, os, sys, time
from enum import Enum, IntEnum
from types import SimpleNamespace

__version__ = "10.3.0"
ComputeCapability = Enum("ComputeCapability", {"SM86": 1, "SM87": 2})
MemoryPoolType = Enum("MemoryPoolType", {"WORKSPACE": 1, "TACTIC_DRAM": 2})
NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 0})


class ILogger:
    Severity = IntEnum("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4})


class IProgressMonitor:
    pass


class OnnxParser:
    num_errors = 0

    def __init__(self, network, log):
        pass

    def parse(self, content):
        return True


class _Config:
    def __init__(self):
        self.limits, self.cache = {}, b""

    def set_memory_pool_limit(self, pool, size):
        self.limits[pool.name] = size

    def set_compute_capability(self, capability, index):
        self.capability = capability.name

    def create_timing_cache(self, content):
        return None if content == b"damaged" else content

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return True

    def get_timing_cache(self):
        return SimpleNamespace(serialize=lambda: self.cache + b"measured;")


class Builder:
    def __init__(self, log):
        self.log = log
        if os.environ["RS4D_TEST_BUILDER"] == "no driver":
            log.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags):
        return SimpleNamespace(num_inputs=0, num_outputs=0, flags=flags)

    def create_builder_config(self):
        return _Config()

    def build_serialized_network(self, network, config):
        behaviour = os.environ["RS4D_TEST_BUILDER"]
        monitor = config.progress_monitor
        monitor.phase_start("Building engine", None, 4)
        monitor.step_complete("Building engine", 0)
        if behaviour == "killed":
            os.kill(os.getpid(), 9)
        if behaviour == "exits":
            print("terminate called")
            sys.stdout.flush()
            os._exit(3)
        if behaviour == "slow":
            time.sleep(60)
        if behaviour == "out of memory":
            words = "[defaultAllocator.cpp::allocate] Error Code 1: Cuda Runtime (out of memory)"
            self.log.log(ILogger.Severity.ERROR, words)
            return None
        if behaviour == "refuses":
            self.log.log(ILogger.Severity.ERROR, "Could not find any implementation for node my/conv")
            return None
        monitor.phase_finish("Building engine")
        self.log.log(ILogger.Severity.INFO, "Total Activation Memory: 77 bytes")
        told = {"limits": config.limits, "cache": config.cache.decode(), "typed": network.flags}
        return memoryview(json.dumps(told).encode())
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str = "works", module: str = _MODULE) -> None:
    """Put the module into `folder` and both processes' search paths."""
    (folder / "tensorrt.py").write_text(module)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv(BEHAVIOUR, behaviour)


def write_relu(path: Path) -> Path:
    """The smallest graph that TensorRT takes."""
    values = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def write_engine_bundle(path: Path, target: str = "jetson", runtime: str = "tensorrt") -> Path:
    """A bundle around that graph, which is not a detector: it can be built, and not run."""
    with write_bundle(path) as draft:
        write_relu(draft.path / "model.onnx")
        draft.add_golden(golden_frame(), square_detections())
        draft.seal(
            name="relu",
            target=target,
            runtime=runtime,
            precision="fp32",
            contract=CONTRACT,
            model="model.onnx",
            weights=WeightsRecord(name="none", sha256="0" * 64),
            parity=parity(),
        )
    return path
