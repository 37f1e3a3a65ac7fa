"""The process that builds an engine: `python -m rs4d_edge.runtimes.tensorrt_builder JOB DESCRIPTOR PARENT`.

A process of its own, because the library ends its process where it fails badly, because the system ends one that takes
too much memory, and because TensorRT-RTX finds itself only by a search path that is set before the process begins (see
`tensorrt_build`). JOB is a file with a `BuildJob`; DESCRIPTOR is an open pipe, into which go lines of JSON: progress,
and at the end a `BuildAnswer`. The process ends when PARENT, the one that began it, does.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from rs4d_edge.runtimes.tensorrt_parsed import without_functions
from rs4d_edge.runtimes.tensorrt_plugins import QUALIFIED_NAMES, register_plugins
from rs4d_edge.runtimes.tensorrt_progress import BuildProgress, make_monitor
from rs4d_edge.runtimes.tensorrt_record import EngineHost, EngineRecord, EngineTensor
from rs4d_edge.runtimes.tensorrt_timing import load_timing_cache, save_timing_cache

_MEMORY = {
    "weights_bytes": re.compile(r"Total Weights Memory: (\d+) bytes"),
    "activations_bytes": re.compile(r"Total Activation Memory: (\d+) bytes"),
}
_OUT_OF_MEMORY = re.compile(r"out ?of ?memory|insufficient (memory|workspace)|cannot allocate", re.IGNORECASE)
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


class BuildJob(BaseModel):
    """One engine. `model` is the ONNX file, `engine` where to write, `host` the machine it is for.

    `max_memory_bytes` caps what TensorRT may take for trying kernels and for their workspace, None leaves it the GPU's
    whole memory. `timing_cache` is a file of measured kernels that is read and written, None for none.
    """

    model: Path
    engine: Path
    host: EngineHost
    max_memory_bytes: int | None = None
    timing_cache: Path | None = None


class BuildAnswer(BaseModel):
    """The engine that was written, or in `error` why there is none; `out_of_memory` if that is the reason."""

    record: EngineRecord | None = None
    error: str = ""
    out_of_memory: bool = False


class _BuildFailed(Exception):  # noqa: N818 (it says what happened)
    """With TensorRT's own words."""


def build(job: BuildJob, tell: Callable[[BuildProgress], None]) -> BuildAnswer:
    """Parse, build and write."""
    trt: Any = importlib.import_module(job.host.library)
    log = _log_class(trt)()
    content = job.model.read_bytes()
    parsed = without_functions(content)
    if parsed.needs_plugins:
        register_plugins(trt)
    try:
        builder = _builder(trt, log)
        network = _parse(trt, builder, log, parsed.content)
        begun = time.monotonic()
        plan = _plan(trt, builder, network, log, job, tell)
        job.engine.write_bytes(plan)
    except _BuildFailed as failed:
        return BuildAnswer(error=str(failed), out_of_memory=_OUT_OF_MEMORY.search(str(failed)) is not None)
    except MemoryError as error:
        return BuildAnswer(error=f"has no memory left: {error}", out_of_memory=True)
    record = EngineRecord(
        **job.host.model_dump(),
        engine=job.engine.name,
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        model=job.model.name,
        model_sha256=hashlib.sha256(content).hexdigest(),
        inputs=tuple(_tensor(trt, network.get_input(index)) for index in range(network.num_inputs)),
        outputs=tuple(_tensor(trt, network.get_output(index)) for index in range(network.num_outputs)),
        plugins=QUALIFIED_NAMES if parsed.needs_plugins else (),
        size_bytes=plan.nbytes,
        build_s=round(time.monotonic() - begun, 3),
        **{name: log.number(pattern) for name, pattern in _MEMORY.items()},
    )
    return BuildAnswer(record=record)


def _builder(trt: Any, log: Any) -> Any:
    try:
        return trt.Builder(log)
    except TypeError as error:  # what its bindings say where the library gives none: without a GPU or its driver
        raise _BuildFailed(f"cannot begin: {log.errors()}") from error


def _parse(trt: Any, builder: Any, log: Any, content: bytes) -> Any:
    # TensorRT 11 has strongly typed networks alone, and may have no flag to ask for them.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, log)
    if parser.parse(content):
        return network
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = [f"{each.node_name()} ({each.node_operator()}): {each.desc().splitlines()[0]}" for each in errors]
    raise _BuildFailed(f"cannot parse {'; '.join(told) or 'the graph: ' + log.errors()}")


def _plan(trt: Any, builder: Any, network: Any, log: Any, job: BuildJob, tell: Callable[[BuildProgress], None]) -> Any:
    """The engine in TensorRT's own memory."""
    config = builder.create_builder_config()
    config.progress_monitor = make_monitor(trt, tell)
    _set_capability(trt, config, job.host)
    if job.max_memory_bytes is not None:
        for pool in (trt.MemoryPoolType.WORKSPACE, trt.MemoryPoolType.TACTIC_DRAM):
            config.set_memory_pool_limit(pool, job.max_memory_bytes)
    cache = load_timing_cache(config, job.timing_cache) if job.timing_cache else None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _BuildFailed(f"cannot build for compute capability {job.host.compute_capability}: {log.errors()}")
    if cache is not None and job.timing_cache is not None:
        save_timing_cache(config, job.timing_cache)
    return plan


def _set_capability(trt: Any, config: Any, host: EngineHost) -> None:
    """TensorRT-RTX builds for any GPU that is named; TensorRT for the one that it finds."""
    if not hasattr(trt, "ComputeCapability"):
        if host.gpu is None:
            raise _BuildFailed("builds engines on the GPU that they are for alone, and none is here")
        return
    known = {name: value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    wanted = known.get(f"SM{host.compute_capability.replace('.', '')}")
    if wanted is None:
        names = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known)
        raise _BuildFailed(f"has no compute capability {host.compute_capability}, only {names}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(wanted, 0)


def _tensor(trt: Any, tensor: Any) -> EngineTensor:
    return EngineTensor(name=tensor.name, dtype=trt.nptype(tensor.dtype).__name__, shape=tuple(tensor.shape))


def _log_class(trt: Any) -> type[Any]:
    class Log(trt.ILogger):  # type: ignore[misc]  # the base is known only at run time
        """Keeps TensorRT's errors, and the lines that may hold figures."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []
            self._lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self._errors.append(message.strip())
            elif severity <= trt.ILogger.Severity.INFO:
                self._lines.append(message)

        def errors(self) -> str:
            return " | ".join(self._errors) or "TensorRT gave no reason"

        def number(self, pattern: re.Pattern[str]) -> int | None:
            found = [int(match[1]) for line in self._lines if (match := pattern.search(line))]
            return found[-1] if found else None

    return Log


def _end_with(parent: int) -> None:
    """Be killed when the parent ends, however it does: nobody waits for the engine then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # it had ended before
            os.kill(os.getpid(), signal.SIGKILL)


def _send(pipe: IO[str], message: BaseModel) -> None:
    pipe.write(message.model_dump_json() + "\n")


def main() -> None:
    """Do the job in the file that is named, and write into the pipe."""
    path, descriptor, parent = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    _end_with(parent)
    with os.fdopen(descriptor, "w", encoding="utf-8", buffering=1) as pipe:
        job = BuildJob.model_validate_json(path.read_text())
        answer = build(job, lambda progress: _send(pipe, progress))
        _send(pipe, answer)


if __name__ == "__main__":
    main()
