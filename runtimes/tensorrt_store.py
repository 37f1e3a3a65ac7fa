"""Where engines that are built on the device lie: BUNDLE/engines/<key>/model.engine, with their record beside them.

The key is made of the model's hash and of everything that an engine depends on, so that one bundle may hold engines of
several devices, versions and drivers, and none is taken for another. They are no part of the bundle: its manifest does
not list them, and they may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import ValidationError

from rs4d_edge.bundle import ENGINES_FOLDER, read_manifest, sha256_of
from rs4d_edge.errors import BundleError, InputError
from rs4d_edge.manifest import MANIFEST_NAME
from rs4d_edge.runtimes.tensorrt_record import EngineHost, EngineRecord

RECORD_NAME = "model.json"
_PARTIAL = ".build-"  # of a build that goes on, or that was cut short
_DIGEST_LENGTH = 16


def engine_key(model_sha256: str, host: EngineHost) -> str:
    """The folder's name: GPU and capability for people, a digest of everything that counts."""
    name = re.sub(r"[^a-z0-9]+", "-", (host.gpu or "any").lower()).strip("-")
    digest = hashlib.sha256(f"{model_sha256} {host.model_dump_json()}".encode()).hexdigest()
    return f"{name}-sm{host.compute_capability.replace('.', '')}-{digest[:_DIGEST_LENGTH]}"


def timing_cache_path(engines: Path, host: EngineHost) -> Path:
    """One cache for all models of a machine: what was measured holds for that machine alone."""
    digest = hashlib.sha256(host.model_dump_json().encode()).hexdigest()
    return engines / f"timing-{digest[:_DIGEST_LENGTH]}.cache"


def model_sha256(model_path: Path) -> str:
    """That of the ONNX file; in a bundle as its manifest lists it, which was compared when the bundle was opened."""
    if (model_path.parent / MANIFEST_NAME).is_file():
        for file in read_manifest(model_path.parent).files:
            if file.path == model_path.name:
                return file.sha256
    return sha256_of(model_path)


def stored_engines(model_path: Path) -> list[tuple[Path, EngineRecord]]:
    """The engines that were built on devices: folder and record of each. Raises BundleError for a damaged record."""
    engines = model_path.parent / ENGINES_FOLDER
    return [(path.parent, read_record(path)) for path in sorted(engines.glob(f"[!.]*/{RECORD_NAME}"))]


def read_record(path: Path) -> EngineRecord:
    """The record in that file. Raises BundleError, which says what is wrong with it and what to do."""
    again = f"delete {path.parent}, and run rs4d-export build BUNDLE" if _is_stored(path) else "export the bundle again"
    try:
        return EngineRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror or error}); {again}") from error
    except ValidationError as error:
        problems = "; ".join(": ".join((*map(str, item["loc"]), item["msg"])) for item in error.errors())
        raise BundleError(f"{path} is not the record of an engine ({problems}); {again}") from error


def _is_stored(path: Path) -> bool:
    return path.parent.parent.name == ENGINES_FOLDER


@contextmanager
def locked_engines(bundle: Path) -> Iterator[Path]:
    """The folder of engines, made if it is missing, for one process at a time, rid of what builds left that were cut.

    It is removed again if nothing is in it at the end. Raises InputError if another process builds there, or if nothing
    can be written.
    """
    engines = bundle / ENGINES_FOLDER
    try:
        engines.mkdir(exist_ok=True)
        descriptor = os.open(engines, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(
            f"{engines} cannot be written ({error.strerror or error}): engines are built into the bundle; copy it to "
            "where this user may write"
        ) from error
    try:
        _lock(descriptor, engines)
        for left in engines.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield engines
    finally:
        with suppress(OSError):  # something is in it, which is the rule
            engines.rmdir()
        os.close(descriptor)


def _lock(descriptor: int, engines: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(
            f"another process is building an engine in {engines}: wait until it is done, then try again"
        ) from error


def put_in_place(built: Path, engines: Path, key: str) -> Path:
    """Rename a folder with engine and record to its key; what was there under that key is replaced."""
    place = engines / key
    if place.exists():
        shutil.rmtree(place)
    built.rename(place)
    return place
