"""Results of calibrations, kept for the next export under the identity of what they were measured on.

An entry is a folder with the files of one calibration and `identity.json`. It serves only if the identity is the same
in every part and every file is as it was written; otherwise it is calibrated anew, and the reason is told.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rs4d_edge.bundle import sha256_of
from rs4d_edge.errors import BundleError, InputError
from rs4d_edge.quantization_record import CalibrationIdentity

_IDENTITY = "identity.json"


@dataclass(frozen=True)
class CacheAnswer:
    """`folder` of the entry that serves, or None with the reason why none does."""

    folder: Path | None
    reason: str


class CalibrationCache:
    """Entries below `folder`, one for each name: the last calibration of that model for that target."""

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--calib-cache {folder} is a file: name a folder")
        self._folder = folder

    def find(self, name: str, identity: CalibrationIdentity) -> CacheAnswer:
        """The entry `name`, if it is of `identity` and whole."""
        entry = self._folder / name
        if not (entry / _IDENTITY).is_file():
            return CacheAnswer(None, f"nothing is cached for {name}")
        try:
            content = json.loads((entry / _IDENTITY).read_text(encoding="utf-8"))
            cached = CalibrationIdentity.model_validate(content["identity"])
            damaged = [file for file, digest in content["files"].items() if sha256_of(entry / file) != digest]
        except (OSError, ValueError, KeyError, AttributeError, ValidationError, BundleError) as error:
            return CacheAnswer(None, f"the cached calibration cannot be read: {type(error).__name__}")
        changed = cached.differences(identity)
        if changed:
            return CacheAnswer(None, f"changed since the cached calibration: {', '.join(changed)}")
        if damaged:
            return CacheAnswer(None, f"the cached calibration is damaged: {', '.join(damaged)}")
        return CacheAnswer(entry, "nothing changed since the cached calibration")

    def store(self, name: str, identity: CalibrationIdentity, write: Callable[[Path], None]) -> None:
        """Replace the entry `name` by the files that `write` puts into the folder that it is given.

        InputError where the cache cannot be written.
        """
        partial = self._folder / f".{name}.{uuid.uuid4().hex[:8]}.partial"
        try:
            partial.mkdir(parents=True)
            write(partial)
            files = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
            content = {"identity": identity.model_dump(), "files": files}
            (partial / _IDENTITY).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            shutil.rmtree(self._folder / name, ignore_errors=True)
            partial.rename(self._folder / name)
        except OSError as error:
            raise InputError(
                f"--calib-cache {self._folder} cannot be written: {error.strerror or error}; name another folder"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
