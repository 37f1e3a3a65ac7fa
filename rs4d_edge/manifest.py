"""The manifest of a bundle: what the model is, where it came from, what was proven about it, and every file's hash.

`SCHEMA_VERSION` changes whenever a reader of the old kind would misread the new; `parse_manifest` then refuses, and
says what to do. `seal` holds a hash of each entry, so that an edited threshold or class list is found and named, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from rs4d_edge.contract import ModelContract
from rs4d_edge.errors import BundleError
from rs4d_edge.quantization_record import QuantizationRecord, RangeRecord

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"


def _inside(path: str) -> str:
    """Refuse every path that could leave the bundle, on any operating system."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in path or "\0" in path:
        raise ValueError(f"path {path!r} must be relative, with forward slashes, and stay inside the bundle")
    if str(PurePosixPath(path)) != path:
        raise ValueError(f"path {path!r} must be written plainly: {str(PurePosixPath(path))!r}")
    return path


BundlePath = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class FileRecord(_Record):
    """One file of the bundle: its path in it, its size in bytes and its SHA-256."""

    path: BundlePath
    size: int = Field(ge=0)
    sha256: Sha256


class WeightsRecord(_Record):
    """The source weights: a name that a person knows, and the SHA-256 of the file (or of the tensors) exported."""

    name: str = Field(min_length=1)
    sha256: Sha256


class TensorParity(_Record):
    """Largest absolute difference of one graph output from the reference over all golden frames, and its limit."""

    name: str
    max_abs_diff: float = Field(ge=0)
    tolerance: float = Field(ge=0)


class DetectionParity(_Record):
    """How the detections on the golden frames compare: counts, and the worst differences of the matched ones.

    A match has the same label and an IoU of at least `match_iou`. Boxes in pixels of the frame. None: nothing matched.
    `excused_at_the_cut`: detections without partner whose score is next to the one at which the list is cut.
    """

    reference: int = Field(ge=0)
    exported: int = Field(ge=0)
    matched: int = Field(ge=0)
    match_iou: float = Field(ge=0, le=1)
    max_box_diff_px: float | None = None
    max_score_diff: float | None = None
    min_mask_iou: float | None = None
    excused_at_the_cut: int = Field(0, ge=0)


class ParityRecord(_Record):
    """What the gate of the export compared with the reference, and by which tolerances (name: limit)."""

    reference: str = "torch fp32"
    frames: int = Field(ge=1)
    tensors: tuple[TensorParity, ...]
    detections: DetectionParity
    tolerances: dict[str, float]


class AveragePrecision(_Record):
    """COCO AP of boxes or masks, fractions of 1: over IoU 0.5 to 0.95, and at 0.5."""

    ap: float = Field(ge=0, le=1)
    ap50: float = Field(ge=0, le=1)


class AccuracyOnData(_Record):
    """What the reference scored at the export on a COCO file: its name, its SHA-256, and how many images it names."""

    reference: str = "torch fp32"
    annotations: str = Field(min_length=1)
    annotations_sha256: Sha256
    images: int = Field(ge=1)
    boxes: AveragePrecision
    masks: AveragePrecision


class GoldenFrame(_Record):
    """One frame (PNG) and the reference's detections on it (JSON, `Detections.to_dict`).

    `cut` is the lowest score of the reference's list if that was full, with those in the padding, which are not among
    the detections: there may be others just below. None: it was not full.
    """

    image: BundlePath
    detections: BundlePath
    cut: float | None = None


class Manifest(_Record):
    """Everything that a device must know about a bundle. `model` is the file that the runtime opens.

    `tools` and `machine` say what exported it (package or property: version or value); `options` are the export's own.
    `quantization`, `ranges` or `accuracy` None: the file has no such entry.
    """

    schema_version: Literal[1] = 1
    name: str = Field(min_length=1)
    created: datetime
    target: str = Field(min_length=1)
    runtime: str = Field(min_length=1)
    precision: str = Field(min_length=1)
    contract: ModelContract
    model: BundlePath
    weights: WeightsRecord
    parity: ParityRecord
    golden: tuple[GoldenFrame, ...] = Field(min_length=1)
    files: tuple[FileRecord, ...] = Field(min_length=1)
    tools: dict[str, str] = {}
    machine: dict[str, str] = {}
    options: dict[str, str | int | float | bool] = {}
    quantization: QuantizationRecord | None = None
    ranges: RangeRecord | None = None
    accuracy: AccuracyOnData | None = None

    @model_validator(mode="after")
    def _lists_agree(self) -> Manifest:
        listed = [file.path for file in self.files]
        twice = sorted({path for path in listed if listed.count(path) > 1})
        if twice:
            raise ValueError(f"files lists {twice} more than once")
        if MANIFEST_NAME in listed:
            raise ValueError(f"files must not list {MANIFEST_NAME} itself")
        named = [self.model, *(path for frame in self.golden for path in (frame.image, frame.detections))]
        unlisted = [path for path in named if path not in listed]
        if unlisted:
            raise ValueError(f"{unlisted} are named, but files does not list them")
        return self


def manifest_text(manifest: Manifest) -> str:
    """The manifest as the JSON text that `parse_manifest` reads, with its seal."""
    absent = {name for name in ("quantization", "ranges", "accuracy") if getattr(manifest, name) is None}
    content = manifest.model_dump(mode="json", exclude=absent)
    return json.dumps({**content, "seal": _seal(content)}, indent=2, ensure_ascii=False) + "\n"


def parse_manifest(text: str, where: str) -> Manifest:
    """Read a manifest; anything wrong raises `BundleError` that names `where` and what to do."""
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BundleError(f"{where} is not valid JSON ({error}): copy or export the bundle again") from error
    if not isinstance(content, dict):
        raise BundleError(
            f"{where} holds a {type(content).__name__}, expected an object: it is not a bundle's manifest"
        )
    _check_version(content.get("schema_version"), where)
    seal = content.pop("seal", None)
    if not isinstance(seal, dict):
        raise BundleError(f"{where} has no seal: it was cut or written by hand; copy or export the bundle again")
    _check_seal(content, seal, where)
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise BundleError(f"{where} is not a valid manifest: {problems}") from error


def _check_version(version: Any, where: str) -> None:
    if type(version) is not int:
        raise BundleError(f"{where} has schema_version {version!r}, expected the number {SCHEMA_VERSION}")
    if version > SCHEMA_VERSION:
        raise BundleError(
            f"{where} has schema_version {version}, this rs4d-edge reads up to {SCHEMA_VERSION}: "
            "update rs4d-edge on this device, or export the bundle with the version that is installed here"
        )
    if version < SCHEMA_VERSION:
        raise BundleError(f"{where} has schema_version {version}, which is no longer read: export the bundle again")


def _check_seal(content: Mapping[str, Any], seal: Mapping[str, Any], where: str) -> None:
    expected = _seal(content)
    changed = sorted(name for name in {*expected, *seal} if expected.get(name) != seal.get(name))
    if changed:
        raise BundleError(
            f"{where} was edited after the export: {', '.join(changed)} no longer fit its seal; "
            "export again with the wanted settings, because what was proven holds only for the old ones"
        )


def _seal(content: Mapping[str, Any]) -> dict[str, str]:
    """A short SHA-256 of each entry, the contract's entries one by one."""
    entries = {name: value for name, value in content.items() if name != "contract"}
    contract = content.get("contract")
    if isinstance(contract, Mapping):
        entries.update({f"contract.{name}": value for name, value in contract.items()})
    return {name: _digest(value) for name, value in sorted(entries.items())}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
