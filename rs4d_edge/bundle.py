"""Bundles on disk: one folder with a manifest, the model's files and golden frames.

`write_bundle` builds it under a temporary name beside its place and renames it when it is complete, so that a bundle is
either whole or not there. `open_bundle` checks every listed file before anything is loaded. Files that the manifest
does not list are never opened and do no harm (a file manager's droppings, an engine's cache); `Bundle.unlisted` names
them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import cv2

from rs4d_edge.contract import ModelContract
from rs4d_edge.detections import Detections
from rs4d_edge.errors import BundleError, InputError
from rs4d_edge.frames import Frame, check_frame, read_image
from rs4d_edge.manifest import (
    MANIFEST_NAME,
    AccuracyOnData,
    FileRecord,
    GoldenFrame,
    Manifest,
    ParityRecord,
    WeightsRecord,
    manifest_text,
    parse_manifest,
)
from rs4d_edge.quantization_record import QuantizationRecord, RangeRecord

GOLDEN_FOLDER = "golden"
ENGINES_FOLDER = "engines"  # what `rs4d-export build` adds on a device
AGAIN = "copy or export the bundle again"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files were all found as the manifest says."""

    path: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """The file that the runtime opens."""
        return self.path / self.manifest.model

    @property
    def unlisted(self) -> tuple[str, ...]:
        """Files in the folder that the manifest does not list, sorted; they are never opened.

        Engines that were built on a device are not among them: they have records of their own.
        """
        listed = {MANIFEST_NAME, *(file.path for file in self.manifest.files)}
        return tuple(
            path for path in _files_below(self.path) if path not in listed and not path.startswith(f"{ENGINES_FOLDER}/")
        )

    def golden(self) -> list[tuple[Frame, Detections]]:
        """The golden frames, uint8 (h, w, 3) in RGB order, each with the reference's detections on it."""
        pairs = []
        for frame in self.manifest.golden:
            image = cv2.cvtColor(read_image(self.path / frame.image), cv2.COLOR_BGR2RGB)
            text = (self.path / frame.detections).read_text(encoding="utf-8")
            pairs.append((check_frame(image), Detections.from_dict(json.loads(text))))
        return pairs


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open the bundle at `path` after checking its manifest and the size and SHA-256 of every listed file.

    Raises `BundleError`, which names what is missing, cut short, edited or of another version, and what to do.
    """
    root = Path(path)
    bundle = Bundle(path=root, manifest=read_manifest(root))
    for record in bundle.manifest.files:
        _check_file(root, record)
    return bundle


def read_manifest(root: Path) -> Manifest:
    """The manifest of the bundle at `root`, its seal checked, but no other file. Raises `BundleError`."""
    if not root.exists():
        raise BundleError(f"{root} does not exist: expected a bundle's folder, as written by rs4d-export")
    if not root.is_dir():
        raise BundleError(f"{root} is a file: a bundle is a folder with {MANIFEST_NAME} in it; give the folder")
    manifest_path = root / MANIFEST_NAME
    if not manifest_path.is_file():
        raise BundleError(f"{root} has no {MANIFEST_NAME}: it is not a bundle, or its copy is incomplete")
    try:
        text = manifest_path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{manifest_path} cannot be read ({error}): {AGAIN}") from error
    return parse_manifest(text, str(manifest_path))


def damaged_files(root: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the files of the bundle at `root`, one sentence each; empty if nothing is."""
    return [problem for record in manifest.files if (problem := _problem(root, record)) is not None]


def _problem(root: Path, record: FileRecord) -> str | None:
    try:
        _check_file(root, record)
    except BundleError as error:
        return str(error)
    return None


def _check_file(root: Path, record: FileRecord) -> None:
    path = root / record.path
    if not path.is_file():
        raise BundleError(f"{root} lacks {record.path}, which its manifest lists: {AGAIN}")
    if not path.resolve().is_relative_to(root.resolve()):
        raise BundleError(
            f"{path} is a link that leads out of the bundle, to {path.resolve()}: put the file itself there"
        )
    size = path.stat().st_size
    if size != record.size:
        what = "cut short" if size < record.size else "longer than exported"
        raise BundleError(f"{path} is {what}: {size} bytes, the manifest says {record.size}; {AGAIN}")
    found = sha256_of(path)
    if found != record.sha256:
        raise BundleError(f"{path} was changed: its SHA-256 is {found}, the manifest says {record.sha256}; {AGAIN}")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in lower-case hexadecimal."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror or error}): {AGAIN}") from error
    return digest.hexdigest()


class BundleDraft:
    """A bundle that is being written, in the temporary folder `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: Manifest | None = None
        self._golden: list[GoldenFrame] = []

    def add_golden(self, frame: Frame, detections: Detections, cut: float | None = None) -> None:
        """Store one frame, uint8 (h, w, 3) in RGB order, and the reference's detections on it; see `GoldenFrame`."""
        folder = self.path / GOLDEN_FOLDER
        folder.mkdir(exist_ok=True)
        stem = f"frame_{len(self._golden)}"
        written, encoded = cv2.imencode(".png", cv2.cvtColor(check_frame(frame), cv2.COLOR_RGB2BGR))
        if not written:
            raise BundleError(f"golden frame {stem} of shape {frame.shape} could not be encoded as PNG")
        (folder / f"{stem}.png").write_bytes(encoded.tobytes())
        (folder / f"{stem}.json").write_text(json.dumps(detections.to_dict()), encoding="utf-8")
        names = (f"{GOLDEN_FOLDER}/{stem}.png", f"{GOLDEN_FOLDER}/{stem}.json")
        self._golden.append(GoldenFrame(image=names[0], detections=names[1], cut=cut))

    def seal(
        self,
        *,
        name: str,
        target: str,
        runtime: str,
        precision: str,
        contract: ModelContract,
        model: str,
        weights: WeightsRecord,
        parity: ParityRecord,
        tools: Mapping[str, str] | None = None,
        machine: Mapping[str, str] | None = None,
        options: Mapping[str, str | int | float | bool] | None = None,
        quantization: QuantizationRecord | None = None,
        ranges: RangeRecord | None = None,
        accuracy: AccuracyOnData | None = None,
    ) -> Manifest:
        """Hash every file in the draft and write the manifest (its fields are `Manifest`'s); the draft is then final.

        `model` is the path, in the bundle, of the file that the runtime opens.
        """
        files = tuple(
            FileRecord(path=path, size=(self.path / path).stat().st_size, sha256=sha256_of(self.path / path))
            for path in _files_below(self.path)
        )
        created = datetime.now(timezone.utc).replace(microsecond=0)
        self.manifest = Manifest(
            name=name,
            created=created,
            target=target,
            runtime=runtime,
            precision=precision,
            contract=contract,
            model=model,
            weights=weights,
            parity=parity,
            golden=tuple(self._golden),
            files=files,
            tools=dict(tools or {}),
            machine=dict(machine or {}),
            options=dict(options or {}),
            quantization=quantization,
            ranges=ranges,
            accuracy=accuracy,
        )
        (self.path / MANIFEST_NAME).write_text(manifest_text(self.manifest), encoding="utf-8")
        return self.manifest


@contextmanager
def write_bundle(out_dir: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[BundleDraft]:
    """Give a `BundleDraft` in a temporary folder beside `out_dir`, and rename it to `out_dir` at the end.

    On any error the draft is removed, and what was at `out_dir` stays as it was. An existing bundle is replaced only
    with `overwrite`; anything else that is there (except an empty folder) is never touched.
    """
    target = Path(out_dir).absolute()
    _check_place(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _hidden_folder_beside(target, "partial")
    try:
        draft = BundleDraft(temporary)
        yield draft
        if draft.manifest is None:
            raise BundleError(f"the bundle for {target} was not sealed: call seal() before the end of the block")
        _check_place(target, overwrite)
        _move_into_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_place(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target} is a file: name a folder that does not exist yet")
    if not any(target.iterdir()):
        return
    if not (target / MANIFEST_NAME).is_file():
        raise InputError(f"{target} exists and is not a bundle: it is left alone; name another folder")
    if not overwrite:
        raise InputError(f"{target} already holds a bundle: name another folder, or ask for it to be overwritten")


def _move_into_place(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    aside = _hidden_folder_beside(target, "old")
    target.rename(aside / target.name)
    try:
        temporary.rename(target)
    except OSError:
        (aside / target.name).rename(target)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _files_below(root: Path) -> list[str]:
    """Paths of all files below `root`, relative, with forward slashes, sorted."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def _hidden_folder_beside(target: Path, purpose: str) -> Path:
    """A new folder with the usual permissions (tempfile's would be closed to the device's other users)."""
    folder = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.{purpose}")
    folder.mkdir()
    return folder
