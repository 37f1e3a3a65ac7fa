"""Proof on the device: that a bundle is whole, and that it still sees what the reference saw.

Needs neither torch nor a data set: the bundle carries its golden frames, the reference's detections on them, and the
limits by which the export was judged. The frames take the real path, through the Predictor.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from rs4d_edge.bundle import Bundle, damaged_files, read_manifest, sha256_of
from rs4d_edge.detection_parity import DetectionCheck
from rs4d_edge.detections import Detections
from rs4d_edge.errors import BundleError, ParityError, RS4DError
from rs4d_edge.machine import machine_record, package_version
from rs4d_edge.manifest import MANIFEST_NAME, Manifest
from rs4d_edge.predictor import Predictor
from rs4d_edge.resize import fit
from rs4d_edge.runtimes import table
from rs4d_edge.tolerances import Tolerances


class Outcome(str, Enum):
    """Of one check. `NOTICE`: unlike the export, but nothing that was proven depends on it."""

    PASSED = "passed"
    NOTICE = "notice"
    FAILED = "failed"


class Check(NamedTuple):
    """One thing that was looked at, and what was found."""

    what: str
    outcome: Outcome
    found: str


@dataclass
class Verification:
    """All checks of one bundle, in the order in which they were made; one that failed may have ended them."""

    path: Path
    checks: list[Check] = field(default_factory=list)
    manifest: Manifest | None = None
    manifest_sha256: str | None = None
    golden: DetectionCheck | None = None
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.outcome is not Outcome.FAILED for check in self.checks)

    def record(self) -> dict[str, Any]:
        """For a JSON file: the checks, how the detections compare, and on what machine."""
        manifest = self.manifest
        named = {} if manifest is None else {"model": manifest.name, "precision": manifest.precision}
        return {
            "bundle": str(self.path),
            "manifest_sha256": self.manifest_sha256,
            **named,
            "passed": self.passed,
            "checks": [{**check._asdict(), "outcome": check.outcome.value} for check in self.checks],
            "detections": None if self.golden is None else self.golden.record().model_dump(),
            "moved": [] if self.golden is None else self.golden.moved,
            "seconds": round(self.seconds, 3),
            "machine": machine_record(() if manifest is None else (manifest.runtime,)),
        }


def verify(path: Path, *, runtime: str | None = None, threads: int | None = None) -> Verification:
    """Check the bundle at `path`: manifest, every file's hash, the engine, the detections on the golden frames.

    `runtime` and `threads` as for `Predictor`. What is wrong with the bundle is in the answer, not raised.
    """
    start = time.perf_counter()
    result = Verification(path)
    try:
        for check in _checks(result, runtime, threads):
            result.checks.append(check)
            if check.outcome is Outcome.FAILED:
                break
    finally:
        result.seconds = time.perf_counter() - start
    return result


def _checks(result: Verification, runtime: str | None, threads: int | None) -> Iterator[Check]:
    try:
        manifest = result.manifest = read_manifest(result.path)
    except BundleError as error:
        yield Check("manifest and its seal", Outcome.FAILED, str(error))
        return
    result.manifest_sha256 = sha256_of(result.path / MANIFEST_NAME)
    yield Check("manifest and its seal", Outcome.PASSED, f"{manifest.name}, {manifest.target}, {manifest.precision}")
    bundle = Bundle(result.path, manifest)
    yield _files(bundle)
    name = runtime or manifest.runtime
    yield _engine(manifest, name)
    try:
        # Not by the bundle's path: that would hash every file once more.
        engine = table.open_runtime(name, bundle.model_path, threads=threads, precision=manifest.precision)
        with Predictor.over(engine, manifest.contract) as predictor:
            yield Check("the engine opens the model", Outcome.PASSED, name)
            result.golden = check_golden(predictor, bundle)
    except RS4DError as error:
        yield Check("the model runs on the golden frames", Outcome.FAILED, str(error))
        return
    yield _detections(result.golden)


def _files(bundle: Bundle) -> Check:
    damaged = damaged_files(bundle.path, bundle.manifest)
    if damaged:
        return Check("files", Outcome.FAILED, "; ".join(damaged))
    size = sum(record.size for record in bundle.manifest.files)
    found = f"all {len(bundle.manifest.files)} are as exported, {size / 1e6:.1f} MB"
    if bundle.unlisted:
        return Check(
            "files", Outcome.NOTICE, f"{found}; never opened, because not listed: {', '.join(bundle.unlisted)}"
        )
    return Check("files", Outcome.PASSED, found)


def _engine(manifest: Manifest, runtime: str) -> Check:
    what = f"version of {runtime}"
    if runtime == "tensorrt":  # an engine's own record names the version that built it, without which it is not opened
        return Check(what, Outcome.PASSED, "compared with the engine's record when it is opened")
    exported, here = manifest.tools.get(runtime, "another engine"), package_version(runtime)
    if here is None:
        return Check(what, Outcome.NOTICE, f"no package of this name is installed; exported with {exported}")
    if here == exported:
        return Check(what, Outcome.PASSED, here)
    return Check(what, Outcome.NOTICE, f"{here} here, exported with {exported}")


def _detections(golden: DetectionCheck) -> Check:
    record = golden.record()
    found = f"{record.matched} of {record.reference} matched on {len(golden.frames)} frames"
    if record.matched:
        found += (
            f"; at most {record.max_box_diff_px:.2g} px, {record.max_score_diff:.2g} in score, "
            f"mask IoU at least {record.min_mask_iou:.3f}"
        )
    complaints = golden.complaints()
    if complaints:
        return Check("detections on the golden frames", Outcome.FAILED, "; ".join([*complaints, found]))
    return Check("detections on the golden frames", Outcome.PASSED, found)


def check_golden(predictor: Predictor, bundle: Bundle) -> DetectionCheck:
    """Run the golden frames and compare with the reference's detections, by the limits that the manifest records."""
    try:
        limits = Tolerances.model_validate(bundle.manifest.parity.tolerances)
    except ValidationError as error:
        raise BundleError(
            f"{bundle.path} was exported by another version of rs4d-edge, whose limits are not known here "
            f"({error.error_count()} do not fit): export it again"
        ) from error
    contract = bundle.manifest.contract
    result = DetectionCheck(limits)
    frames, references = zip(*bundle.golden(), strict=True)
    answers = predictor.run_batch(frames)
    for golden, reference, found in zip(bundle.manifest.golden, references, answers, strict=True):
        cuts = [contract.score_threshold, *_full_list_cuts(contract.max_detections, reference, found)]
        cuts += [golden.cut] if golden.cut is not None else []
        geometry = fit(reference.size_hw, contract.image_size_hw)
        result.add(reference, found, cuts, 1.0 / min(geometry.factors_yx))
    return result


def require_golden(predictor: Predictor, bundle: Bundle) -> None:
    """Raise ParityError, with what is wrong, unless the golden frames give what the reference gave."""
    complaints = check_golden(predictor, bundle).complaints()
    if complaints:
        raise ParityError(
            f"the self-test of {bundle.path} failed: on this machine the golden frames do not give what the reference "
            f"gave: {'; '.join(complaints)}. rs4d-verify shows everything; export the bundle again for this machine"
        )


def _full_list_cuts(most: int, *lists: Detections) -> list[float]:
    """The lowest scores of lists that have no room left: there may be others just below."""
    return [float(each.scores.min()) for each in lists if len(each) >= most]
