"""What is said when a bundle's engine is not for this machine: one clear error each, before TensorRT is given it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rs4d_edge.bundle import write_bundle
from rs4d_edge.errors import BundleError, InputError, RS4DError, RuntimeFailure, RuntimeUnavailable
from rs4d_edge.manifest import WeightsRecord
from rs4d_edge.predictor import Predictor
from rs4d_edge.runtimes import tensorrt_engine
from tests.runtimes.cuda_stand_in import CudaStandIn, Error
from tests.runtimes.tensorrt_stand_in import Machine, tensors, write_engine
from tests.runtimes.tiny_models import CONTRACT
from tests.stand_ins import contract, golden_frame, parity, small_bundle, square_detections

REBUILD = r"run: rs4d-export build \S+"
ON_THE_CPU = r'Predictor\(bundle, runtime="onnxruntime"\)'


def refused(machine: Machine, path: Path, kind: type[RS4DError], message: str) -> None:
    """With that error alone, which holds nothing, and TensorRT was not given the engine."""
    with pytest.raises(kind, match=message):
        machine.open(path)
    assert machine.cuda.live == {}
    assert machine.trt.deserialized == 0


@pytest.mark.parametrize(
    ("recorded", "described"),
    [
        ({"version": "1.6.0.10"}, r"built on tensorrt_rtx 1\.6\.0\.10, .* this is tensorrt_rtx 1\.7\.1\.116"),
        ({"platform": "linux-none"}, r"built on .* linux-none; this is tensorrt_rtx 1\.7\.1\.116"),
        ({"gpu": "Orin"}, r"built on .* Orin, compute capability 8\.6, .*; this is .*, Stand-in GPU, compute"),
        ({"model_sha256": "0" * 64}, r"built from another sums\.onnx, with SHA-256 0{64}; this one has e3b0c442"),
    ],
)
def test_an_engine_of_another_library_or_platform(
    machine: Machine, tmp_path: Path, recorded: dict[str, str], described: str
) -> None:
    path = write_engine(tmp_path, **recorded)
    refused(machine, path, BundleError, rf"sums-sm86\.engine was {described}.*{REBUILD}.*{ON_THE_CPU}")


def test_no_engine_for_this_gpu(machine: Machine, tmp_path: Path) -> None:
    write_engine(tmp_path, capability="8.9")
    path = write_engine(tmp_path, capability="12.0")
    message = rf"compute capability 12\.0, 8\.9; this is Stand-in GPU \(compute capability 8\.6.*{REBUILD}"
    refused(machine, path, BundleError, message)


def test_the_engine_of_this_gpu_is_the_one_that_is_opened(machine: Machine, tmp_path: Path) -> None:
    write_engine(tmp_path, capability="8.9", version="another")
    machine.open(write_engine(tmp_path, capability="8.6")).close()
    assert machine.trt.deserialized == 1


def test_a_bundle_without_engines(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    refused(machine, path, BundleError, rf"holds no TensorRT engine: .*{REBUILD}.*{ON_THE_CPU}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda engine: engine.write_bytes(engine.read_bytes()[:-1]), r"sums-sm86\.engine has 10 bytes, .* says 11"),
        (lambda engine: engine.unlink(), r"sums-sm86\.engine cannot be read"),
        (lambda engine: engine.with_suffix(".json").write_text("{"), r"sums-sm86\.json is not the record of an engine"),
        (lambda engine: engine.write_bytes(b"engine some"), r"sums-sm86\.engine was changed: its SHA-256 is"),
    ],
)
def test_damaged_files(machine: Machine, tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    path = write_engine(tmp_path)
    spoil(tmp_path / "sums-sm86.engine")
    refused(machine, path, BundleError, f"{message}.*export the bundle again")


def test_a_record_that_leads_out_of_the_bundle(machine: Machine, tmp_path: Path) -> None:
    refused(machine, write_engine(tmp_path, engine="../sums.engine"), BundleError, "not a file beside it")


def test_engines_that_the_manifest_does_not_list_are_left_alone(machine: Machine, tmp_path: Path) -> None:
    small_bundle(tmp_path / "bundle")
    dropped = write_engine(tmp_path / "bundle")
    refused(machine, dropped, BundleError, "holds no TensorRT engine")


def test_a_listed_record_of_an_unlisted_engine(machine: Machine, tmp_path: Path) -> None:
    write_engine(tmp_path)
    record = (tmp_path / "sums-sm86.json").read_bytes()
    with write_bundle(tmp_path / "bundle") as draft:
        (draft.path / "sums.onnx").write_bytes(b"graph")
        (draft.path / "sums-sm86.json").write_bytes(record)
        draft.add_golden(golden_frame(), square_detections())
        draft.seal(
            name="small",
            target="rtx",
            runtime="tensorrt",
            precision="fp32",
            contract=contract(),
            model="sums.onnx",
            weights=WeightsRecord(name="small.safetensors", sha256="0" * 64),
            parity=parity(),
        )
    (tmp_path / "bundle" / "sums-sm86.engine").write_bytes((tmp_path / "sums-sm86.engine").read_bytes())
    refused(machine, tmp_path / "bundle" / "sums.onnx", BundleError, "does not list")


def test_no_gpu(machine: Machine, tmp_path: Path) -> None:
    path = write_engine(tmp_path)
    machine.cuda.fail["cudaGetDeviceCount"] = Error.NO_DEVICE
    refused(
        machine, path, RuntimeUnavailable, rf"no NVIDIA GPU .*: no device; the driver is for CUDA 13\.0.*{ON_THE_CPU}"
    )
    machine.cuda.driver = 0
    refused(machine, path, RuntimeUnavailable, rf"no driver is installed\. Install NVIDIA's driver.*{ON_THE_CPU}")


def test_no_driver_as_the_older_bindings_say_it(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(cuda: Any) -> Any:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(CudaStandIn, "cudaGetDeviceCount", missing)
    message = r"Failed to dlopen libcuda\.so\.1; no driver is installed"
    refused(machine, write_engine(tmp_path), RuntimeUnavailable, message)


def test_the_library_that_built_the_engine_is_not_installed(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)  # what import finds for a package that is not installed
    message = r'tensorrt_rtx 1\.7\.1\.116, which is not installed; run: pip install "tensorrt-rtx==1\.7\.1\.116"'
    refused(machine, write_engine(tmp_path), RuntimeUnavailable, f"{message}.*{ON_THE_CPU}")


def test_the_library_does_not_import(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")
    (tmp_path / "tensorrt_rtx.py").write_text("raise ImportError('libtensorrt_rtx.so.1: cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path))
    refused(
        machine, write_engine(tmp_path), RuntimeUnavailable, r"does not import: libtensorrt_rtx\.so\.1: cannot open"
    )


def test_a_record_cannot_name_any_module(machine: Machine, tmp_path: Path) -> None:
    refused(
        machine, write_engine(tmp_path, library="antigravity"), BundleError, "'antigravity'; known are tensorrt_rtx"
    )
    assert "antigravity" not in sys.modules


def test_tensorrt_refuses_the_engine(machine: Machine, tmp_path: Path) -> None:
    path = write_engine(tmp_path, size_bytes=3, engine_sha256=hashlib.sha256(b"???").hexdigest())
    (tmp_path / "sums-sm86.engine").write_bytes(b"???")
    with pytest.raises(RuntimeFailure, match=r"does not load sums-sm86\.engine: magic tag does not match"):
        machine.open(path)
    assert machine.cuda.live == {}


def test_the_record_is_of_another_engine(machine: Machine, tmp_path: Path) -> None:
    shapes = CONTRACT.output_shapes
    path = write_engine(tmp_path, outputs=tensors(shapes | {"scores": (2, 3)}))
    with pytest.raises(BundleError, match="differ in scores: they do not belong together"):
        machine.open(path)
    assert machine.cuda.live == {}


def test_no_memory_for_the_context(machine: Machine, tmp_path: Path) -> None:
    machine.trt.memory_for_contexts = False
    with pytest.raises(RuntimeUnavailable, match=rf"needs 2\.0 MB for activations, 3\.0 MB are free.*{ON_THE_CPU}"):
        machine.open(write_engine(tmp_path))
    assert machine.cuda.live == {}


def test_plugins_are_registered_before_the_engine_is_loaded(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, int]] = []
    monkeypatch.setattr(tensorrt_engine, "register_plugins", lambda trt: seen.append((trt, machine.trt.deserialized)))
    machine.open(write_engine(tmp_path, plugins=("rs4d::MixerScan", "rs4d::MixerGate"))).close()
    assert seen == [(machine.trt, 0)]
    machine.trt.deserialized = 0
    refused(machine, write_engine(tmp_path, plugins=("other::Scan",)), BundleError, r"'other::Scan'.*rs4d::MixerScan")


def test_precisions_without_engines_and_missing_files(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fp32, fp16, int8, int8-fp16, not in 'bf16'"):
        machine.open(write_engine(tmp_path), precision="bf16")
    with pytest.raises(InputError, match="no model file"):
        machine.open(tmp_path / "missing.onnx")


def test_a_bundle_opens_by_the_name_of_the_runtime_once_its_files_are_checked(machine: Machine, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    with write_bundle(bundle) as draft:
        model = write_engine(draft.path).name
        draft.add_golden(golden_frame(), square_detections())
        draft.seal(
            name="sums",
            target="rtx",
            runtime="tensorrt",
            precision="fp32",
            contract=CONTRACT,
            model=model,
            weights=WeightsRecord(name="none", sha256="0" * 64),
            parity=parity(),
        )
    with Predictor(bundle):
        assert machine.trt.deserialized == 1
    assert machine.cuda.live == {}
    machine.cuda.calls.clear()
    (bundle / "sums-sm86.engine").write_bytes(b"engine scan")
    with pytest.raises(BundleError, match=r"sums-sm86\.engine was changed"):
        Predictor(bundle)
    assert machine.cuda.calls == []
