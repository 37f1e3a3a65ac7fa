"""Which engine of a bundle is for this machine, known before TensorRT is given it, from the records beside them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rs4d_edge.bundle import read_manifest
from rs4d_edge.errors import BundleError
from rs4d_edge.manifest import MANIFEST_NAME
from rs4d_edge.runtimes.tensorrt_cuda import ON_THE_CPU, Gpu
from rs4d_edge.runtimes.tensorrt_record import EngineRecord

_AGAIN = "copy or export the bundle again"


def engine_records(model_path: Path) -> dict[str, EngineRecord]:
    """The records of the engines built from `model_path`, by compute capability. Raises BundleError without any.

    In a bundle only what its manifest lists counts, as that alone was checked: an engine is code.
    """
    records: dict[str, EngineRecord] = {}
    listed = _listed(model_path.parent)
    for path in sorted(model_path.parent.glob(f"{model_path.stem}-sm*.json")):
        if listed is not None and path.name not in listed:
            continue
        try:
            record = EngineRecord.model_validate_json(path.read_bytes())
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror or error}); {_AGAIN}") from error
        except ValidationError as error:
            problems = "; ".join(": ".join((*map(str, item["loc"]), item["msg"])) for item in error.errors())
            raise BundleError(f"{path} is not the record of an engine ({problems}); {_AGAIN}") from error
        if listed is not None and record.engine not in listed:
            raise BundleError(f"{path} names {record.engine}, which the bundle's manifest does not list; {_AGAIN}")
        records[record.compute_capability] = record
    if not records:
        raise BundleError(
            f"{model_path.parent} holds no TensorRT engine: export the bundle with rs4d-export --target rtx, "
            f"{ON_THE_CPU}"
        )
    return records


def _listed(folder: Path) -> frozenset[str] | None:
    """The files of the bundle in `folder`; None if no manifest is there: a graph and its engines alone."""
    if not (folder / MANIFEST_NAME).is_file():
        return None
    return frozenset(file.path for file in read_manifest(folder).files)


def record_for(records: Mapping[str, EngineRecord], gpu: Gpu) -> EngineRecord:
    """The record of the engine for `gpu`. Raises BundleError if there is none for its compute capability."""
    if gpu.compute_capability not in records:
        raise BundleError(
            f"the bundle's engines were built for compute capability {', '.join(sorted(records))}; this is {gpu}. "
            f"{_rebuild(gpu)}, {ON_THE_CPU}"
        )
    return records[gpu.compute_capability]


def check_identity(record: EngineRecord, trt: Any, gpu: Gpu) -> None:
    """Raise BundleError unless the library `trt`, the GPU and the platform are those that the engine was built for."""
    wanted = (record.library, record.version, record.compute_capability, record.platform)
    here = (trt.__name__, trt.__version__, gpu.compute_capability, platform_name())
    if wanted != here:
        raise BundleError(
            f"{record.engine} was built for {_described(*wanted)}; this is {_described(*here)}, {gpu}. "
            f"{_rebuild(gpu)} with {trt.__name__} {trt.__version__} installed, {ON_THE_CPU}"
        )


def read_engine(folder: Path, record: EngineRecord) -> bytes:
    """The engine's file. Raises BundleError if it is missing or not as long as recorded."""
    path = folder / record.engine
    if path.parent != folder:
        raise BundleError(f"the record names {record.engine!r}, which is not a file beside it; {_AGAIN}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror or error}); {_AGAIN}") from error
    if len(content) != record.size_bytes:
        raise BundleError(f"{path} has {len(content)} bytes, its record says {record.size_bytes}; {_AGAIN}")
    return content


def platform_name() -> str:
    """The operating system and the processor of this machine, as records name them."""
    return f"{sys.platform}-{platform.machine()}"


def _described(library: str, version: str, compute_capability: str, platform: str) -> str:
    return f"{library} {version}, compute capability {compute_capability}, {platform}"


def _rebuild(gpu: Gpu) -> str:
    capability = gpu.compute_capability
    return f"To rebuild, run rs4d-export MODEL --target rtx --compute-capability {capability} --out BUNDLE"
