"""Which runtimes there are, and how one is opened by name."""

from __future__ import annotations

import importlib
import platform
from pathlib import Path
from typing import NamedTuple, cast

from rs4d_edge.bundle import Bundle
from rs4d_edge.errors import InputError, RuntimeUnavailable
from rs4d_edge.runtimes.contract import Runtime, RuntimeModule, check_threads


class _Entry(NamedTuple):
    module: str
    package: str  # the engine that the module imports
    extra: str  # the extra of rs4d-edge that installs it
    else_: str = ""  # what a machine without it can do


RUNTIMES = {
    "torch": _Entry("rs4d_edge.runtimes.torch_runtime", "torch", "export"),
    "onnxruntime": _Entry("rs4d_edge.runtimes.onnxruntime_runtime", "onnxruntime", "onnx"),
    "openvino": _Entry("rs4d_edge.runtimes.openvino_runtime", "openvino", "openvino"),
    # The engine's own library is the one that built it, which only the bundle knows.
    "tensorrt": _Entry(
        "rs4d_edge.runtimes.tensorrt_runtime",
        "cuda.bindings",
        "jetson" if platform.machine() == "aarch64" else "tensorrt-rtx",
        "; a machine without a GPU runs the same model with the runtime 'onnxruntime'",
    ),
}


def open_runtime(name: str, model_path: str | Path, *, threads: int | None = None, precision: str = "fp32") -> Runtime:
    """Load the model file at `model_path` into the runtime `name`.

    `precision` is that of the export (`fp32`, `bf16`, `fp16`, `int8`, `int8-bf16`, `int8-fp16`). Raises InputError for
    an unknown name or option, RuntimeUnavailable if the engine is not installed, does not import, or cannot run in that
    precision here. There is no fallback to another runtime or precision.
    """
    check_threads(threads)
    return runtime_module(name).open_model(Path(model_path), threads=threads, precision=precision)


def build_if_needed(name: str, bundle: Bundle) -> None:
    """Have an engine for this machine in `bundle` before the runtime `name` opens it; progress goes to the log.

    Raises InputError for a runtime that has no engines, else what `tensorrt_device_build.build_on_device` raises.
    """
    if name != "tensorrt":
        raise InputError(f"build='if-needed' is for the runtime 'tensorrt', which runs engines; {name!r} builds none")
    from rs4d_edge.runtimes.tensorrt_device_build import build_on_device
    from rs4d_edge.runtimes.tensorrt_progress import LoggedProgress

    build_on_device(bundle, if_needed=True, tell=LoggedProgress())


def runtime_module(name: str) -> RuntimeModule:
    """Import the module of the runtime `name`."""
    entry = RUNTIMES.get(name)
    if entry is None:
        raise InputError(f"there is no runtime {name!r}; the known ones are {', '.join(sorted(RUNTIMES))}")
    try:
        return cast(RuntimeModule, importlib.import_module(entry.module))
    except ModuleNotFoundError as error:
        if not f"{entry.package}.".startswith(f"{error.name}."):  # itself, or the package that it is part of
            raise RuntimeUnavailable(f"the runtime {name!r} does not import: {error}") from error
        raise RuntimeUnavailable(
            f"the runtime {name!r} needs the package {entry.package}, which is not installed; "
            f'run: pip install "rs4d-edge[{entry.extra}]"{entry.else_}'
        ) from error
    except ImportError as error:
        raise RuntimeUnavailable(
            f"the package {entry.package} is installed but does not import: {error}. Mend it, or install it afresh: "
            f'pip install --force-reinstall "rs4d-edge[{entry.extra}]"'
        ) from error
