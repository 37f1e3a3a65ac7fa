"""A device's install, `pip install rs4d-edge[onnx]` or `[openvino]`: bundles are proven and timed on it.

The wheel lies in an environment with the packages that the extra names, what those need, and nothing else: no torch, no
ONNX, no NNCF, and not the other engine.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from rs4d_edge.export import model_files, pipeline
from rs4d_edge.export.pipeline import export_bundle
from rs4d_edge.export.recipes import Recipe, ScanForm, Target
from rs4d_edge.native.library import HIDE_VARIABLE
from rs4d_edge.reference.config import HeadType
from tests.export.conftest import SIZE_HW, tiny_detector, tiny_translation

EXTRAS = {Target.ONNX: "onnx", Target.CPU: "openvino"}
WORKSTATION = {"torch", "onnx", "onnxscript", "nncf", "safetensors", "scipy", "matplotlib", "transformers"}


class Device(NamedTuple):
    """An environment's folder of programs, and the names of all packages that it holds besides ours."""

    programs: Path
    packages: set[str]

    def run(self, program: str, *arguments: object, native: bool = False) -> subprocess.CompletedProcess[str]:
        """Without our native code, which it would take long to build, unless it is asked for."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RS4D"))}
        kept |= {"COLUMNS": "200"} | ({} if native else {HIDE_VARIABLE: "1"})
        command = [str(self.programs / program), *map(str, arguments)]
        home = self.programs.parent
        return subprocess.run(command, cwd=home, env=kept, capture_output=True, text=True, check=False)


def plain_name(name: str) -> str:
    """As package indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed_by(requirements: list[str], extra: str = "") -> set[str]:
    """Names of all packages that `requirements` lead to, as they are installed here; `extra` is of the first alone."""
    found: set[str] = set()
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            name = plain_name(requirement.name)
            found |= {name} | needed_by(importlib.metadata.requires(name) or [])
    return found


@pytest.fixture(scope="module")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Device]:
    """Makes the environment of an extra."""

    def made(extra: str) -> Device:
        folder = tmp_path_factory.mktemp(extra)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        python = folder / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, str(wheel)], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (own,) = importlib.metadata.distributions(name="rs4d-edge", path=[str(site)])
        packages = needed_by(own.requires or [], extra)
        for package in packages:
            held = importlib.metadata.distribution(package)
            for name in {file.parts[0] for file in held.files or () if file.parts[0] not in ("..", "__pycache__")}:
                (site / name).symlink_to(Path(str(held.locate_file(name))))
        return Device(python.parent, packages)

    return made


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Target, ScanForm], Path]:
    """Exports a tiny detector as on a workstation; in IR, the scan is written in the form that is asked for."""

    def exported(target: Target, scan: ScanForm) -> Path:
        path = tmp_path_factory.mktemp("exported") / "bundle"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "translate", lambda model, batch: tiny_translation(HeadType.BBOX, SIZE_HW))
            patch.setattr(model_files, "scan_form", lambda: scan)
            export_bundle(tiny_detector(), Recipe(target=target, image_size_hw=SIZE_HW), path, threads=1)
        return path

    return exported


def prove_and_time(device: Device, bundle: Path, *, native: bool = False) -> None:
    record = device.programs.parent / "verify.json"
    done = device.run("rs4d-verify", bundle, "--threads", 1, "--json", record, native=native)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    verified = json.loads(record.read_text())
    assert "proven" in done.stdout and verified["passed"] is True
    assert verified["detections"]["matched"] == verified["detections"]["reference"] >= 20
    record = device.programs.parent / "bench.json"
    done = device.run("rs4d-bench", bundle, "--duration", 1, "--threads", 1, "--json", record, native=native)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (timed,) = json.loads(record.read_text())["bundles"]
    assert timed["runs"] > 0 and timed["latency"]["total"]["p50_ms"] > 0 and timed["memory"]["peak_bytes"] > 1 << 20


@pytest.mark.parametrize("target", EXTRAS, ids=lambda target: target.value)
def test_bundles_are_proven_and_timed_with_one_extra_alone(
    target: Target, install: Callable[[str], Device], export: Callable[[Target, ScanForm], Path]
) -> None:
    pytest.importorskip(target.runtime)
    device = install(EXTRAS[target])
    others = {other.runtime for other in EXTRAS} - {target.runtime}
    assert device.packages.isdisjoint(WORKSTATION | others), "the extra brings what belongs on a workstation"
    probe = f"import importlib.util; print([n for n in {sorted(WORKSTATION | others)} if importlib.util.find_spec(n)])"
    assert device.run("python", "-c", probe).stdout.split() == ["[]"]
    prove_and_time(device, export(target, ScanForm.PLAIN))


@pytest.mark.slow
@pytest.mark.parametrize("target", EXTRAS, ids=lambda target: target.value)
def test_the_device_builds_our_kernels_from_the_wheel(
    target: Target, install: Callable[[str], Device], export: Callable[[Target, ScanForm], Path]
) -> None:
    pytest.importorskip(target.runtime)
    if target is Target.CPU and model_files.scan_form() is not ScanForm.NATIVE:
        pytest.skip("OpenVINO's scan extension could not be built here")
    device = install(EXTRAS[target])
    before = set(device.programs.parent.rglob("_rs4d_*.so"))
    prove_and_time(device, export(target, ScanForm.NATIVE), native=True)
    (built,) = set(device.programs.parent.rglob("_rs4d_*.so")) - before
    assert target.runtime in built.name
