"""Which engine of a bundle is for this machine, known before TensorRT is given it, from the records beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from rs4d_edge.bundle import read_manifest
from rs4d_edge.errors import BundleError, RS4DError, RuntimeUnavailable
from rs4d_edge.manifest import MANIFEST_NAME
from rs4d_edge.runtimes.tensorrt_cuda import ON_THE_CPU, Gpu
from rs4d_edge.runtimes.tensorrt_engine import import_library
from rs4d_edge.runtimes.tensorrt_host import host_of
from rs4d_edge.runtimes.tensorrt_record import EngineRecord
from rs4d_edge.runtimes.tensorrt_store import model_sha256, read_record, stored_engines

_AGAIN = "copy or export the bundle again"


class FoundEngine(NamedTuple):
    """An engine for this machine: the folder it lies in, its record, and the module of the library that loads it."""

    folder: Path
    record: EngineRecord
    trt: Any


def find_engine(model_path: Path, gpu: Gpu) -> FoundEngine:
    """The engine of `model_path` that was built for this machine, on it or ahead of time.

    Raises BundleError if there is none, or RuntimeUnavailable if only its library is missing: what the likeliest one
    was built on, what this is, and how to rebuild.
    """
    engines = [*stored_engines(model_path), *_listed_engines(model_path)]
    if not engines:
        raise BundleError(f"{model_path.parent} holds no TensorRT engine: {rebuild(model_path)}, {ON_THE_CPU}")
    fitting = [each for each in engines if each[1].compute_capability == gpu.compute_capability]
    if not fitting:
        known = ", ".join(sorted({record.compute_capability for _, record in engines}))
        raise BundleError(
            f"the bundle's engines were built for compute capability {known}; this is {gpu}. "
            f"{rebuild(model_path)}, {ON_THE_CPU}"
        )
    refusals = []
    for folder, record in fitting:
        answer = _fitting(folder, record, gpu, model_path)
        if isinstance(answer, FoundEngine):
            return answer
        refusals.append((_agreement(record, gpu), answer))
    raise max(refusals, key=lambda each: each[0])[1]


def _fitting(folder: Path, record: EngineRecord, gpu: Gpu, model_path: Path) -> FoundEngine | RS4DError:
    try:
        trt = import_library(record)
        check_identity(record, trt, gpu, model_path)
    except (BundleError, RuntimeUnavailable) as error:
        return error
    return FoundEngine(folder, record, trt)


def check_identity(record: EngineRecord, trt: Any, gpu: Gpu, model_path: Path) -> None:
    """Raise BundleError unless model, library, GPU, driver and system are those that the engine was built for."""
    here = host_of(trt, gpu)
    if record.gpu is None:  # built without a GPU, for all of its capability
        here = here.model_copy(update={"gpu": None, "driver": None, "jetpack": None})
    if record.host != here:
        raise BundleError(
            f"{record.engine} was built on {record.host}; this is {here}, {gpu}. {rebuild(model_path)}, {ON_THE_CPU}"
        )
    found = model_sha256(model_path)
    if record.model_sha256 != found:
        raise BundleError(
            f"{record.engine} was built from another {record.model}, with SHA-256 {record.model_sha256}; this one has "
            f"{found}. {rebuild(model_path)}, {ON_THE_CPU}"
        )


def read_engine(folder: Path, record: EngineRecord) -> bytes:
    """The engine's file. Raises BundleError if it is missing or not the recorded one."""
    path = folder / record.engine
    if path.parent != folder:
        raise BundleError(f"the record names {record.engine!r}, which is not a file beside it; {_AGAIN}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror or error}); {_AGAIN}") from error
    if len(content) != record.size_bytes:
        raise BundleError(f"{path} has {len(content)} bytes, its record says {record.size_bytes}; {_AGAIN}")
    found = hashlib.sha256(content).hexdigest()
    if found != record.engine_sha256:
        raise BundleError(
            f"{path} was changed: its SHA-256 is {found}, its record says {record.engine_sha256}; {_AGAIN}"
        )
    return content


def rebuild(model_path: Path) -> str:
    """How to get an engine for this machine."""
    return f"To build one for this machine, run: rs4d-export build {model_path.parent}"


def _listed_engines(model_path: Path) -> list[tuple[Path, EngineRecord]]:
    """Engines that came with the bundle, in a bundle only those that its manifest lists: an engine is code."""
    folder = model_path.parent
    listed = _listed_files(folder)
    engines = []
    for path in sorted(folder.glob(f"{model_path.stem}-sm*.json")):
        if listed is not None and path.name not in listed:
            continue
        record = read_record(path)
        if listed is not None and record.engine not in listed:
            raise BundleError(f"{path} names {record.engine}, which the bundle's manifest does not list; {_AGAIN}")
        engines.append((folder, record))
    return engines


def _listed_files(folder: Path) -> frozenset[str] | None:
    """The files of the bundle in `folder`; None if no manifest is there: a graph and its engines alone."""
    if not (folder / MANIFEST_NAME).is_file():
        return None
    return frozenset(file.path for file in read_manifest(folder).files)


def _agreement(record: EngineRecord, gpu: Gpu) -> int:
    """How near the record is to this machine, to speak of the one that the user means."""
    return sum((record.gpu == gpu.name, record.gpu is not None, record.library == "tensorrt"))
