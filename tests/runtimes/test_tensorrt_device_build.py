"""Engines that are built on the device: where they are kept, for which machine, and what is said on another one."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rs4d_edge.bundle import open_bundle
from rs4d_edge.errors import BundleError, InputError, RuntimeFailure, RuntimeUnavailable
from rs4d_edge.predictor import Predictor
from rs4d_edge.runtimes import tensorrt_build, tensorrt_builder, tensorrt_host
from rs4d_edge.runtimes.tensorrt_cuda import Cuda, Gpu
from rs4d_edge.runtimes.tensorrt_device_build import BuiltEngine, build_on_device
from rs4d_edge.runtimes.tensorrt_identity import find_engine
from rs4d_edge.runtimes.tensorrt_progress import BuildProgress
from rs4d_edge.runtimes.tensorrt_record import EngineRecord
from tests.runtimes.builder_stand_in import install, write_engine_bundle
from tests.runtimes.tensorrt_stand_in import Machine

Build = Callable[..., BuiltEngine]
ORIN = Gpu("Orin", "8.7", "12.6", integrated=True)


@pytest.fixture
def bundle(tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """On an Orin with a `tensorrt` that builds at once."""
    machine.cuda.capability, machine.cuda.name, machine.cuda.integrated = (8, 7), b"Orin", 1
    machine.cuda.driver = 12060
    monkeypatch.setattr(tensorrt_host, "driver_version", lambda root: "540.4.0")
    monkeypatch.setattr(tensorrt_host, "jetpack_release", lambda root: "L4T 36.4.3")
    for module in ("tensorrt_rtx", "tensorrt"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    install(tmp_path, monkeypatch)
    monkeypatch.setattr(tensorrt_build, "_run", _in_this_process)  # test_tensorrt_build.py has the other one
    return write_engine_bundle(tmp_path / "bundle")


def _in_this_process(job: tensorrt_builder.BuildJob, work: Path, tell: tensorrt_build.Tell) -> EngineRecord:
    answer = tensorrt_builder.build(job, tell)
    if answer.record is None:
        raise RuntimeFailure(answer.error)
    return answer.record


def build(bundle: Path, **options: Any) -> BuiltEngine:
    return build_on_device(open_bundle(bundle), **options)


def engines(bundle: Path) -> list[str]:
    return sorted(path.name for path in (bundle / "engines").iterdir())


def test_the_engine_lies_in_the_bundle_under_a_key_and_is_found(bundle: Path) -> None:
    built = build(bundle, max_memory_bytes=2 << 20)
    assert built.new and built.record.gpu == "Orin"
    assert (built.record.driver, built.record.jetpack) == ("540.4.0", "L4T 36.4.3")
    assert built.folder.name.startswith("orin-sm87-")
    key, cache = engines(bundle)
    assert key == built.folder.name and cache.startswith("timing-")
    found = find_engine(bundle / "model.onnx", ORIN)
    assert (found.folder, found.record, found.trt.__name__) == (built.folder, built.record, "tensorrt")
    assert open_bundle(bundle).manifest.target == "jetson"  # a bundle is whole with and without its engines


def test_nothing_is_built_twice_unless_it_is_asked_for(bundle: Path) -> None:
    first = build(bundle)
    assert build(bundle, if_needed=True) == first._replace(new=False)
    assert build(bundle).new
    assert len(engines(bundle)) == 2
    (first.folder / "model.engine").write_bytes(b"cut")
    assert build(bundle, if_needed=True).new


def test_the_cap_is_a_share_of_the_memory_that_is_free(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("rs4d_edge.runtimes.tensorrt_device_build")
    monkeypatch.setattr(module, "available_memory_bytes", lambda: 1_000_000_000)
    built = build(bundle)
    assert json.loads((built.folder / "model.engine").read_bytes())["limits"]["WORKSPACE"] == 600_000_000


def test_a_graphics_card_has_memory_of_its_own(bundle: Path, machine: Machine) -> None:
    machine.cuda.integrated = 0
    built = build(bundle)
    assert json.loads((built.folder / "model.engine").read_bytes())["limits"]["WORKSPACE"] == 1_800_000  # of 3 MB


@pytest.mark.parametrize(
    ("change", "built_on", "this_is"),
    [
        ({"driver_version": "550.54"}, "driver 540.4.0", "driver 550.54"),
        ({"jetpack_release": "L4T 36.5"}, "L4T 36.4.3", "L4T 36.5"),
        ({"name": b"Orin Nano"}, "Orin, compute", "Orin Nano, compute"),
    ],
)
def test_on_another_machine_one_error_says_what_differs_and_how_to_rebuild(
    bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], built_on: str, this_is: str
) -> None:
    build(bundle)
    for name, value in change.items():
        if name == "name":
            machine.cuda.name = value
        else:
            monkeypatch.setattr(tensorrt_host, name, lambda root, value=value: value)
    gpu = Cuda(machine.cuda).gpu()
    message = rf"model\.engine was built on .*{built_on}.*; this is .*{this_is}.*run: rs4d-export build {bundle}"
    with pytest.raises(BundleError, match=message):
        find_engine(bundle / "model.onnx", gpu)
    with pytest.raises(BundleError, match=message):
        Predictor(bundle)
    rebuilt = build(bundle, if_needed=True)
    assert rebuilt.new and len([name for name in engines(bundle) if "sm87" in name]) == 2
    assert find_engine(bundle / "model.onnx", gpu).folder == rebuilt.folder


def test_another_version_of_the_library(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(bundle)
    monkeypatch.setattr(importlib.import_module("tensorrt"), "__version__", "10.16.0")
    with pytest.raises(BundleError, match=r"built on tensorrt 10\.3\.0, Orin, .*this is tensorrt 10\.16\.0, Orin"):
        find_engine(bundle / "model.onnx", ORIN)


def test_an_engine_of_another_model_is_not_taken(bundle: Path, tmp_path: Path) -> None:
    build(bundle)
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    (other / "model.onnx").write_bytes((other / "model.onnx").read_bytes() + b"\x1a\x00")
    (other / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"built from another model\.onnx"):
        find_engine(other / "model.onnx", ORIN)


@pytest.mark.parametrize("behaviour", ["out of memory", "refuses"])
def test_a_build_that_fails_leaves_the_bundle_as_it_was(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    before = sorted(path.name for path in bundle.iterdir())
    monkeypatch.setenv("RS4D_TEST_BUILDER", behaviour)
    with pytest.raises(RuntimeFailure, match="cannot build for compute capability"):
        build(bundle)
    assert sorted(path.name for path in bundle.iterdir()) == before


def test_an_interrupted_build_leaves_the_bundle_as_it_was(bundle: Path) -> None:
    def interrupt(progress: BuildProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(bundle, tell=interrupt)
    assert not (bundle / "engines").exists()


def test_what_a_power_cut_left_is_removed_by_the_next_build(bundle: Path) -> None:
    left = bundle / "engines" / ".build-cut"
    left.mkdir(parents=True)
    (left / "model.engine").write_bytes(b"half")
    with pytest.raises(BundleError, match="holds no TensorRT engine"):
        find_engine(bundle / "model.onnx", ORIN)
    build(bundle)
    assert not left.exists()


def test_two_builds_at_once(bundle: Path) -> None:
    (bundle / "engines").mkdir()
    other = os.open(bundle / "engines", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="another process is building"):
        build(bundle)
    os.close(other)
    assert build(bundle).new


def test_damaged_records_and_folders_that_cannot_be_written(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build(bundle)
    (built.folder / "model.json").write_text("{}")
    with pytest.raises(BundleError, match=rf"not the record of an engine .*delete {built.folder}, and run"):
        find_engine(bundle / "model.onnx", ORIN)
    shutil.rmtree(bundle / "engines")
    (bundle / "engines").touch()
    with pytest.raises(InputError, match=r"engines cannot be written .*copy it to where this user may write"):
        build(bundle)


def test_what_cannot_be_asked_for(bundle: Path, tmp_path: Path, machine: Machine) -> None:
    with pytest.raises(InputError, match="built by tensorrt or tensorrt_rtx, not by 'openvino'"):
        build(bundle, library="openvino")
    other = write_engine_bundle(tmp_path / "cpu", target="cpu", runtime="openvino")
    with pytest.raises(BundleError, match=r"for target 'cpu', which has no engines: export .*--target jetson"):
        build(other)
    with pytest.raises(InputError, match="for the runtime 'tensorrt', which runs engines; 'openvino' builds none"):
        Predictor(other, build="if-needed")
    with pytest.raises(InputError, match=r"build 'always' must be 'never' or 'if-needed'"):
        Predictor(bundle, build="always")  # type: ignore[arg-type]
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')")
    importlib.invalidate_caches()
    sys.modules.pop("tensorrt", None)
    with pytest.raises(RuntimeUnavailable, match=r"tensorrt is installed but does not import: libnvinfer\.so\.10"):
        build(bundle, library="tensorrt")


def test_the_predictor_builds_if_it_is_asked_to(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match=rf"holds no TensorRT engine: .*run: rs4d-export build {bundle}"):
        Predictor(bundle)
    assert not (bundle / "engines").exists()
    # The stand-in builds engines and loads none: what is seen here is that it got as far as that.
    with pytest.raises(Exception, match=r"no attribute 'Runtime'"):
        Predictor(bundle, build="if-needed")
    assert any(name.startswith("orin-sm87-") for name in engines(bundle))


def test_for_another_gpu_than_the_one_here(bundle: Path) -> None:
    built = build(bundle, compute_capability="8.6")
    assert (built.record.gpu, built.record.driver, built.folder.name[:9]) == (None, None, "any-sm86-")
    assert build(bundle, compute_capability="8.6", if_needed=True) == built._replace(new=False)
    found = find_engine(bundle / "model.onnx", Gpu("RTX 3060", "8.6", "13.0"))
    assert found.folder == built.folder
    with pytest.raises(BundleError, match=r"built for compute capability 8\.6; this is Orin"):
        find_engine(bundle / "model.onnx", ORIN)


def test_engines_are_no_droppings_in_the_bundle(bundle: Path) -> None:
    build(bundle)
    (bundle / "notes.txt").touch()
    assert open_bundle(bundle).unlisted == ("notes.txt",)
