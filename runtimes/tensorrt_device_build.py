"""Build the engine of a bundle on the device that it is to run on, and keep it in the bundle.

No torch, no package `onnx` and no network is needed: TensorRT, cuda-python, and what every device has.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from rs4d_edge.bundle import ENGINES_FOLDER, Bundle
from rs4d_edge.errors import BundleError, InputError, RuntimeUnavailable
from rs4d_edge.runtimes.tensorrt_build import Tell, build_engine, silent
from rs4d_edge.runtimes.tensorrt_cuda import Cuda, Gpu, cuda_of_this_machine
from rs4d_edge.runtimes.tensorrt_host import available_memory_bytes, host_of
from rs4d_edge.runtimes.tensorrt_identity import find_engine, read_engine
from rs4d_edge.runtimes.tensorrt_record import EngineHost, EngineRecord
from rs4d_edge.runtimes.tensorrt_store import (
    RECORD_NAME,
    engine_key,
    locked_engines,
    model_sha256,
    put_in_place,
    read_record,
    timing_cache_path,
)

LIBRARIES = ("tensorrt", "tensorrt_rtx")  # the first that is installed is taken: on a Jetson there is the first alone
_SHARE = 0.6  # of the memory that is free: the rest is for weights, the network, and what else runs meanwhile
_STEM = "model"


class BuiltEngine(NamedTuple):
    """Where the engine is, its record, and whether it was built now."""

    folder: Path
    record: EngineRecord
    new: bool


def build_on_device(
    bundle: Bundle,
    *,
    library: str | None = None,
    compute_capability: str | None = None,
    max_memory_bytes: int | None = None,
    if_needed: bool = False,
    tell: Tell = silent,
) -> BuiltEngine:
    """Build the engine of an open bundle for this machine into BUNDLE/engines, or for a GPU that is not here.

    `library` is one of LIBRARIES; `compute_capability` ("8.9") asks for an engine for any GPU of that kind, which
    tensorrt_rtx alone can build. `max_memory_bytes` caps what TensorRT may take for trying kernels, by default 60 % of
    what is free. With `if_needed` nothing is done where a fitting engine is there. Raises InputError, BundleError
    (a bundle of another target), RuntimeUnavailable (no GPU, library or memory) or RuntimeFailure (TensorRT cannot
    build it); nothing new is in the bundle then.
    """
    if bundle.manifest.runtime != "tensorrt":
        raise BundleError(
            f"{bundle.path} was exported for target {bundle.manifest.target!r}, which has no engines: export the model "
            "with rs4d-export --target jetson or rtx"
        )
    trt = _library(library)
    gpu, cuda = None, None
    if compute_capability is None:
        cuda = cuda_of_this_machine()
        gpu = cuda.gpu()
    host = host_of(trt, gpu, compute_capability)
    if if_needed and (there := _there(bundle, host, gpu)):
        return there
    with locked_engines(bundle.path) as engines:
        cap = max_memory_bytes if max_memory_bytes is not None else _free_share(cuda, gpu)
        return _build(bundle.model_path, engines, host, cap, tell)


def _build(model_path: Path, engines: Path, host: EngineHost, cap: int | None, tell: Tell) -> BuiltEngine:
    # TensorRT-RTX measures nothing when it builds: its timing caches are empty.
    cache = timing_cache_path(engines, host) if host.library == "tensorrt" else None
    with tempfile.TemporaryDirectory(dir=engines, prefix=".build-") as temporary:
        folder = Path(temporary) / "engine"
        folder.mkdir()
        record = build_engine(model_path, folder, _STEM, host, max_memory_bytes=cap, timing_cache=cache, tell=tell)
        place = put_in_place(folder, engines, engine_key(record.model_sha256, host))
    return BuiltEngine(place, record, new=True)


def _there(bundle: Bundle, host: EngineHost, gpu: Gpu | None) -> BuiltEngine | None:
    """A fitting engine that is whole."""
    if gpu is not None:
        try:
            found = find_engine(bundle.model_path, gpu)
            read_engine(found.folder, found.record)
        except (BundleError, RuntimeUnavailable):
            return None
        return BuiltEngine(found.folder, found.record, new=False)
    folder = bundle.path / ENGINES_FOLDER / engine_key(model_sha256(bundle.model_path), host)
    try:
        record = read_record(folder / RECORD_NAME)
        read_engine(folder, record)
    except BundleError:
        return None
    return BuiltEngine(folder, record, new=False)


def _library(name: str | None) -> Any:
    if name is not None and name not in LIBRARIES:
        raise InputError(f"engines are built by {' or '.join(LIBRARIES)}, not by {name!r}")
    installed = [each for each in ((name,) if name else LIBRARIES) if importlib.util.find_spec(each) is not None]
    if not installed:
        raise RuntimeUnavailable(
            f"{name or ' and '.join(LIBRARIES)} not installed: on a Jetson, TensorRT comes with JetPack, and a virtual "
            "environment sees it if made with --system-site-packages; on a PC with an RTX GPU run: "
            'pip install "rs4d-edge[tensorrt-rtx]"'
        )
    try:
        return importlib.import_module(installed[0])
    except ImportError as error:
        raise RuntimeUnavailable(f"the package {installed[0]} is installed but does not import: {error}") from error


def _free_share(cuda: Cuda | None, gpu: Gpu | None) -> int | None:
    """A share of the memory that is free for kernels; a Jetson's GPU shares the machine's own."""
    if cuda is None or gpu is None:
        return None
    free = available_memory_bytes() if gpu.integrated else cuda.free_bytes()
    return int(free * _SHARE) if free else None
