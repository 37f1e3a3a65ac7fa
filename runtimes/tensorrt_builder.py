"""The process in which TensorRT-RTX builds engines: `python -m rs4d_edge.export.tensorrt_builder JOB`.

A process of its own, because the library ends its process where it fails badly, and finds itself only by a search path
that is set before the process begins (see `tensorrt_engines`). JOB is a file with a `BuildJob`, beside which the answer
is written. No GPU is needed.
"""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rs4d_edge.runtimes.tensorrt_record import EngineRecord, EngineTensor
from rs4d_edge.runtimes.tensorrt_scan import PLUGIN_NAME, PLUGIN_NAMESPACE, register_scan_plugin

LIBRARY = "tensorrt_rtx"
_MEMORY = {
    "weights_bytes": re.compile(r"Total Weights Memory: (\d+) bytes"),
    "activations_bytes": re.compile(r"Total Activation Memory: (\d+) bytes"),
}


class BuildJob(BaseModel):
    """One engine. `model` is the ONNX file to parse, `name` what the record calls it, `engine` where to write.

    `compute_capability` is the GPU's ("8.6"). `plugin`: whether the graph has scan nodes for our plugin.
    """

    model: Path
    name: str
    engine: Path
    compute_capability: str
    plugin: bool


class BuildAnswer(BaseModel):
    """The engine that was written, or in `error` why there is none."""

    record: EngineRecord | None = None
    error: str = ""


class _BuildFailed(Exception):  # noqa: N818 (it says what happened)
    """With TensorRT's own words."""


def build(job: BuildJob) -> BuildAnswer:
    """Parse, build and write."""
    import tensorrt_rtx

    trt: Any = tensorrt_rtx
    log = _log_class(trt)()
    if job.plugin:
        register_scan_plugin(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    try:
        _parse(trt, network, log, job.model)
        return BuildAnswer(record=_engine(trt, builder, network, log, job))
    except _BuildFailed as failed:
        return BuildAnswer(error=str(failed))


def answer_path(job: Path) -> Path:
    """Where the answer to the job in that file is written."""
    return job.with_suffix(".answer.json")


def _parse(trt: Any, network: Any, log: Any, model: Path) -> None:
    parser = trt.OnnxParser(network, log)
    if parser.parse(model.read_bytes()):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    told = [f"{each.node_name()} ({each.node_operator()}): {each.desc().splitlines()[0]}" for each in errors]
    raise _BuildFailed(f"cannot parse {'; '.join(told) or 'the graph: ' + log.errors()}")


def _engine(trt: Any, builder: Any, network: Any, log: Any, job: BuildJob) -> EngineRecord:
    capability = job.compute_capability
    known = {name: value for name, value in trt.ComputeCapability.__members__.items() if name.startswith("SM")}
    wanted = known.get(f"SM{capability.replace('.', '')}")
    if wanted is None:
        names = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known)
        raise _BuildFailed(f"has no compute capability {capability}, only {names}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(wanted, 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _BuildFailed(f"cannot build for compute capability {capability}: {log.errors()}")
    job.engine.write_bytes(engine)
    return EngineRecord(
        engine=job.engine.name,
        model=job.name,
        library=LIBRARY,
        version=trt.__version__,
        compute_capability=capability,
        platform=f"{sys.platform}-{platform.machine()}",
        inputs=tuple(_tensor(trt, network.get_input(index)) for index in range(network.num_inputs)),
        outputs=tuple(_tensor(trt, network.get_output(index)) for index in range(network.num_outputs)),
        plugins=(f"{PLUGIN_NAMESPACE}::{PLUGIN_NAME}",) if job.plugin else (),
        size_bytes=engine.nbytes,
        **{name: log.number(pattern) for name, pattern in _MEMORY.items()},
    )


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


def main() -> None:
    """Do the job in the file that is named, and write its answer."""
    path = Path(sys.argv[1])
    answer = build(BuildJob.model_validate_json(path.read_text()))
    answer_path(path).write_text(answer.model_dump_json())


if __name__ == "__main__":
    main()
