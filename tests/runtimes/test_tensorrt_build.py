"""The process that builds an engine: what it is told, what it tells, and that nothing is left of it if it fails."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from rs4d_edge.errors import RS4DError, RuntimeFailure, RuntimeUnavailable
from rs4d_edge.runtimes.tensorrt_build import build_engine
from rs4d_edge.runtimes.tensorrt_host import platform_name
from rs4d_edge.runtimes.tensorrt_progress import BuildProgress
from rs4d_edge.runtimes.tensorrt_record import EngineHost, EngineRecord
from tests.runtimes.builder_stand_in import VERSION, install, write_relu


def host(**changes: Any) -> EngineHost:
    fields = {"library": "tensorrt", "version": VERSION, "compute_capability": "8.7", "platform": platform_name()}
    return EngineHost(**(fields | {"gpu": "Orin", "driver": "540.4.0", "jetpack": "L4T 36.4.3"} | changes))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for engines; the library is elsewhere."""
    install(tmp_path, monkeypatch)
    (tmp_path / "engines").mkdir()
    return tmp_path / "engines"


def test_an_engine_with_its_record_and_what_the_builder_was_asked_for(place: Path, tmp_path: Path) -> None:
    model = write_relu(tmp_path / "relu.onnx")
    told: list[BuildProgress] = []
    record = build_engine(model, place, "model", host(), max_memory_bytes=5 << 20, tell=told.append)
    engine = (place / "model.engine").read_bytes()
    assert json.loads(engine) == {"limits": {"WORKSPACE": 5 << 20, "TACTIC_DRAM": 5 << 20}, "cache": "", "typed": 1}
    assert EngineRecord.model_validate_json((place / "model.json").read_text()) == record
    assert record.host == host()
    assert (record.engine, record.model, record.size_bytes) == ("model.engine", "relu.onnx", len(engine))
    assert record.engine_sha256 == hashlib.sha256(engine).hexdigest()
    assert record.model_sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert (record.activations_bytes, record.weights_bytes, record.plugins) == (77, None, ())
    assert (told[0].phase, told[0].steps) == ("Building engine", 4)
    assert sorted(path.name for path in place.iterdir()) == ["model.engine", "model.json"]


def test_what_was_measured_is_kept_for_the_next_build(place: Path, tmp_path: Path) -> None:
    model, cache = write_relu(tmp_path / "relu.onnx"), place / "timing.cache"
    for expected in ("", "measured;"):
        build_engine(model, place, "model", host(), timing_cache=cache)
        assert json.loads((place / "model.engine").read_bytes())["cache"] == expected
    cache.write_bytes(b"damaged")
    build_engine(model, place, "model", host(), timing_cache=cache)
    assert cache.read_bytes() == b"measured;"
    assert sorted(path.name for path in place.iterdir()) == ["model.engine", "model.json", "timing.cache"]


@pytest.mark.parametrize(
    ("behaviour", "kind", "message"),
    [
        ("out of memory", RuntimeUnavailable, r"out of memory: tensorrt cannot build .*Cuda .*9 MB.*--max-memory"),
        ("killed", RuntimeUnavailable, r"out of memory: tensorrt was killed .*with at most 9 MB.*add swap"),
        ("refuses", RuntimeFailure, r"tensorrt cannot build for compute capability 8\.7: .* node my/conv"),
        ("exits", RuntimeFailure, r"ended with status 3: terminate called"),
        ("no driver", RuntimeFailure, r"tensorrt cannot begin: CUDA initialization failure with error: 35"),
    ],
)
def test_failures_say_why_and_leave_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, kind: type[RS4DError], message: str
) -> None:
    monkeypatch.setenv("RS4D_TEST_BUILDER", behaviour)
    cache = place / "timing.cache"
    with pytest.raises(kind, match=message):
        build_engine(
            write_relu(tmp_path / "relu.onnx"), place, "model", host(), max_memory_bytes=9_000_000, timing_cache=cache
        )
    assert list(place.iterdir()) == []


def test_an_interrupted_build_ends_its_process_and_leaves_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RS4D_TEST_BUILDER", "slow")

    def interrupt(progress: BuildProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(write_relu(tmp_path / "relu.onnx"), place, "model", host(), tell=interrupt)
    assert list(place.iterdir()) == []


def test_what_is_no_model_and_a_library_that_is_not_here(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(RuntimeFailure, match=r"ended with status 1: (?s:.*)the model file is not ONNX: unreadable at"):
        build_engine(tmp_path / "text.onnx", place, "model", host())
    with pytest.raises(RuntimeUnavailable, match=r"the package absent, which is not installed; on a Jetson"):
        build_engine(tmp_path / "text.onnx", place, "model", host(library="absent"))
    assert list(place.iterdir()) == []


def test_a_real_engine(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    built_for = host(library="tensorrt_rtx", version=trt.__version__, compute_capability="8.6", gpu=None)
    record = build_engine(write_relu(tmp_path / "relu.onnx"), tmp_path, "model", built_for, max_memory_bytes=1 << 30)
    assert [(each.name, each.dtype, each.shape) for each in record.inputs] == [("x", "float32", (1, 4))]
    assert (tmp_path / "model.engine").stat().st_size == record.size_bytes > 1000
    with pytest.raises(RuntimeFailure, match=r"tensorrt_rtx has no compute capability 8\.7, only .*8\.6"):
        build_engine(tmp_path / "relu.onnx", tmp_path, "other", host(library="tensorrt_rtx"))
