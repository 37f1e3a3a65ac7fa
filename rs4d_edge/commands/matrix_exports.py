"""Every form of a model that `rs4d-export` makes, for `rs4d-bench --matrix MODEL`.

Each is exported by the command itself in a process of its own: what fails, or is ended for want of memory, costs one
row, and the process that measures stays free of torch and of an export's memory. Needs the extra `export`.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rs4d_edge.bundle import open_bundle, sha256_of
from rs4d_edge.calibration.calibration_set import SAMPLES, open_calibration_set
from rs4d_edge.errors import BundleError, InputError, RuntimeUnavailable
from rs4d_edge.export.recipes import Precision, Recipe, Target
from rs4d_edge.machine import is_installed, package_version
from rs4d_edge.manifest import Manifest

NEEDED = ("torch", "onnx", "onnxscript", "safetensors", "onnxruntime", "openvino")  # the extra `export`
_ANY_SIZE = (64, 64)


@dataclass(frozen=True)
class Form:
    """One combination of the options of rs4d-export."""

    target: Target
    precision: Precision

    @property
    def name(self) -> str:
        """How it is called in the table."""
        return f"{self.target.value} {self.precision.value}"

    @property
    def options(self) -> str:
        """What makes it, without the calibration."""
        plain = f"--target {self.target.value}"
        return plain if self.precision is Precision.FP32 else f"{plain} --precision {self.precision.value}"


@dataclass(frozen=True)
class Source:
    """The model, the file of its weights, and what it is calibrated on."""

    model: str
    weights: Path
    calib: Path
    samples: int | None = None

    def arguments(self, form: Form, out: Path) -> list[str]:
        """What rs4d-export is told."""
        told = [self.model, "--target", form.target.value, "--precision", form.precision.value, "--out", str(out)]
        if form.precision.needs_frames:
            told += ["--calib", str(self.calib)]
            told += ["--samples", str(self.samples)] if self.samples is not None else []
        return [*told, "--overwrite"]


def forms() -> Iterator[Form]:
    """All forms that run on a processor, target by target, fp32 first."""
    for target in (each for each in Target if not each.for_engines):
        for precision in sorted(Precision, key=lambda each: each is not Precision.FP32):
            try:
                Recipe(target=target, precision=precision, image_size_hw=_ANY_SIZE)
            except ValidationError:
                continue
            yield Form(target, precision)


def open_source(model: str, calib: Path | None, samples: int | None) -> Source:
    """Check what every export needs. RuntimeUnavailable without the extra, InputError for no model or no frames."""
    absent = [name for name in NEEDED if not is_installed(name)]
    if absent:
        raise RuntimeUnavailable(
            f"--matrix {model} exports the model first, which needs {', '.join(absent)}: not installed. On a "
            'workstation run: pip install "rs4d-edge[quantize]"; on a device give the folders of bundles instead'
        )
    weights = _weights_file(model)
    if calib is None:
        raise InputError(
            f"--matrix {model} exports int8, too, which is calibrated: give --calib with a folder of images or a COCO "
            "file, a few hundred pictures like those that the model will see and none of those of --data"
        )
    open_calibration_set(calib, samples or SAMPLES)  # ahead of all exports: a wrong path is told at once
    return Source(model, weights, calib, samples)


def export(source: Source, form: Form, out: Path) -> str | None:
    """Write the bundle to `out`, in place of one that is there. None, or why it was refused."""
    command = [sys.executable, "-m", "rs4d_edge.export.command", *source.arguments(form, out)]
    plain = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"} | {"NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=plain)
    if not done.returncode:
        return None
    deliberate = done.stderr.rpartition("error: ")[2].strip()
    if done.returncode == 1 and deliberate and "Traceback" not in done.stderr:
        return deliberate
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return f"rs4d-export ended with status {done.returncode}: {last}"


def why_outdated(bundle: Path, source: Source, form: Form) -> str | None:
    """Why the bundle at this place does not serve for `form` of `source`; None if an export would give the same."""
    try:
        manifest = open_bundle(bundle).manifest
    except BundleError as error:
        return str(error)
    if (manifest.target, manifest.precision) != (form.target.value, form.precision.value):
        return f"it is {manifest.target} {manifest.precision}"
    if manifest.weights.sha256 != sha256_of(source.weights):
        return "it was made of other weights"
    if manifest.contract.batch != 1:
        return f"it takes {manifest.contract.batch} frames at once"
    changed = [
        name for name, version in manifest.tools.items() if name != "python" and version != package_version(name)
    ]
    if changed:
        return f"it was made with another version of {', '.join(changed)}"
    return _why_calibrated_anew(manifest, source) if form.precision.needs_frames else None


def _why_calibrated_anew(manifest: Manifest, source: Source) -> str | None:
    from rs4d_edge.calibration.settings import QuantizationSettings
    from rs4d_edge.reference.checkpoints import load_metadata

    int8, ranges = manifest.quantization, manifest.ranges
    if ranges is not None and int8 is None:
        pixels = ranges.pixels
    elif int8 is not None and int8.accuracy is None:
        pixels = int8.identity.frames
        settings = QuantizationSettings.of_checkpoint(load_metadata(source.weights)).record()
        changed = [name for name, value in settings.items() if int8.identity.settings.get(name) != value]
        changed += [name for name, version in int8.identity.tools.items() if version != package_version(name)]
        if changed:
            return f"it was quantized with another {', '.join(changed)}"
    else:
        return "it was not calibrated as the default is"
    same = pixels == _pixels(source, manifest.contract.image_size_hw)
    return None if same else "it was calibrated on other frames"


@functools.cache
def _pixels(source: Source, size_hw: tuple[int, int]) -> str:
    """By which the manifest knows the calibration frames."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few frames were warned of when the source was opened
        frames = open_calibration_set(source.calib, source.samples or SAMPLES)
    return frames.digests(size_hw, 1)[0]


def _weights_file(model: str) -> Path:
    from rs4d_edge.reference.shipped import shipped_names, shipped_path

    if model in shipped_names():
        return shipped_path(model)
    if Path(model).is_file():
        return Path(model)
    raise InputError(
        f"--matrix takes a shipped model ({', '.join(shipped_names()) or 'none here'}), a checkpoint file or the "
        f"folders of bundles; {model} is none of these"
    )
