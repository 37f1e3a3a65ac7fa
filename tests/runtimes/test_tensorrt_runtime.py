"""The TensorRT adapter over stand-ins of CUDA and TensorRT: what it answers, in which order it calls, what it frees."""

from __future__ import annotations

import gc
import inspect
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rs4d_edge.contract import OUTPUT_NAMES
from rs4d_edge.errors import ClosedError, InputError, RuntimeFailure, RuntimeUnavailable
from rs4d_edge.predictor import Predictor
from tests.runtimes.cuda_stand_in import CudaStandIn, Error
from tests.runtimes.tensorrt_stand_in import MODELS, Machine, write_engine
from tests.runtimes.tiny_models import CONTRACT, Sums, feeds

FRAME = [*["cudaMemcpyAsync"] * 2, "execute", *["cudaMemcpyAsync"] * 4]  # two inputs, four outputs


@pytest.mark.parametrize("model", MODELS)
def test_gives_the_known_answer_frame_after_frame(machine: Machine, tmp_path: Path, model: str) -> None:
    runtime = machine.open(write_engine(tmp_path, model))
    assert {spec.name: spec.shape for spec in runtime.inputs} == CONTRACT.input_shapes
    assert {spec.name: spec.shape for spec in runtime.outputs} == CONTRACT.output_shapes
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for seed in range(3):
        given = feeds(seed)
        given["frame"].setflags(write=False)
        found = runtime.run({name: np.asfortranarray(array) for name, array in given.items()})
        assert list(found) == list(OUTPUT_NAMES)
        kept.append((found, MODELS[model].answer(given)))
    runtime.close()
    for found, expected in kept:  # after later frames and `close`: the arrays are the caller's own
        for name, array in found.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)
            array[...] = 0


def test_a_frame_replays_the_graph_and_allocates_nothing(machine: Machine, tmp_path: Path) -> None:
    runtime = machine.open(write_engine(tmp_path))
    assert runtime.graph_recorded
    held, opening = dict(machine.cuda.live), list(machine.cuda.calls)
    machine.cuda.calls.clear()
    for seed in range(3):
        runtime.run(feeds(seed))
    assert machine.cuda.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"] * 3
    assert machine.cuda.live == held
    counts = Counter(opening)
    assert (counts["cudaMalloc"], counts["cudaHostAlloc"], counts["cudaStreamCreateWithFlags"]) == (6, 6, 1)
    assert (counts["cudaStreamBeginCapture"], counts["cudaGraphInstantiate"]) == (1, 1)


def test_the_engine_runs_once_before_it_is_recorded(machine: Machine, tmp_path: Path) -> None:
    runtime = machine.open(write_engine(tmp_path))
    calls = list(machine.cuda.calls)
    first = calls.index("cudaMemcpyAsync")
    recorded = [*FRAME, "cudaStreamSynchronize", "cudaStreamBeginCapture", *FRAME, "cudaStreamEndCapture"]
    assert calls[first:] == [*recorded, "cudaGraphInstantiate"]
    assert machine.cuda.replays == 0
    runtime.run(feeds(0))
    assert machine.cuda.replays == 1


def test_an_engine_that_cannot_be_recorded_runs_without_a_graph_and_says_so(machine: Machine, tmp_path: Path) -> None:
    machine.trt.enqueue_fails = lambda recording: recording
    with pytest.warns(RuntimeWarning, match=r"sums-sm86\.engine.*CUDA graph.*the kernel said no"):
        runtime = machine.open(write_engine(tmp_path))
    _runs_without_a_graph(machine, runtime)


@pytest.mark.parametrize("call", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_a_graph_that_cuda_refuses_is_done_without(machine: Machine, tmp_path: Path, call: str) -> None:
    machine.cuda.fail[call] = Error.NOT_RECORDED
    with pytest.warns(RuntimeWarning, match=f"{call} failed with 901: not recorded"):
        runtime = machine.open(write_engine(tmp_path))
    _runs_without_a_graph(machine, runtime)


def _runs_without_a_graph(machine: Machine, runtime: Any) -> None:
    assert not runtime.graph_recorded
    machine.cuda.calls.clear()
    given = feeds(1)
    np.testing.assert_allclose(runtime.run(given)["boxes"], Sums.answer(given)["boxes"], rtol=1e-5)
    assert machine.cuda.calls == [*FRAME, "cudaStreamSynchronize"]
    runtime.close()
    assert machine.cuda.live == {}


def test_close_frees_everything_once(machine: Machine, tmp_path: Path) -> None:
    runtime = machine.open(write_engine(tmp_path))
    kinds = Counter(kind for kind, _ in machine.cuda.live)
    assert kinds == {"device": 6, "pinned": 6, "stream": 1, "graph": 1, "executable": 1}
    runtime.close()
    freed = len(machine.cuda.calls)
    runtime.close()
    assert machine.cuda.live == {}
    assert len(machine.cuda.calls) == freed
    with pytest.raises(ClosedError, match="closed"):
        runtime.run(feeds(0))


def test_a_forgotten_runtime_frees_its_memory(machine: Machine, tmp_path: Path) -> None:
    runtime = machine.open(write_engine(tmp_path))
    assert machine.cuda.live
    del runtime
    gc.collect()
    assert machine.cuda.live == {}


def test_a_failing_engine_is_named_with_its_reason(machine: Machine, tmp_path: Path) -> None:
    machine.trt.enqueue_fails = lambda recording: recording
    with pytest.warns(RuntimeWarning):
        runtime = machine.open(write_engine(tmp_path))
    machine.trt.enqueue_fails = lambda recording: True
    with pytest.raises(RuntimeFailure, match=r"failed while running the engine: the kernel said no$"):
        runtime.run(feeds(0))


@pytest.mark.parametrize("call", ["cudaGraphLaunch", "cudaStreamSynchronize"])
def test_a_failing_frame_is_a_runtime_failure(machine: Machine, tmp_path: Path, call: str) -> None:
    runtime = machine.open(write_engine(tmp_path))
    machine.cuda.fail[call] = Error.LAUNCH_FAILED
    with pytest.raises(RuntimeFailure, match=f"{call} failed with 719: launch failed"):
        runtime.run(feeds(0))


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaHostAlloc"])
def test_no_memory_for_the_tensors(machine: Machine, tmp_path: Path, call: str) -> None:
    machine.cuda.fail[call] = Error.OUT_OF_MEMORY
    with pytest.raises(RuntimeUnavailable, match=rf"out of memory: CUDA's {call}.*3\.0 MB are free.*onnxruntime"):
        machine.open(write_engine(tmp_path))
    assert machine.cuda.live == {}


def test_a_failing_first_run_leaves_nothing_held(machine: Machine, tmp_path: Path) -> None:
    machine.trt.enqueue_fails = lambda recording: True
    with pytest.raises(RuntimeFailure, match="the kernel said no"):
        machine.open(write_engine(tmp_path))
    assert machine.cuda.live == {}


def test_wrong_feeds_never_reach_the_gpu(machine: Machine, tmp_path: Path) -> None:
    runtime = machine.open(write_engine(tmp_path))
    machine.cuda.calls.clear()
    with pytest.raises(InputError, match="float32"):
        runtime.run(feeds(0) | {"frame": feeds(0)["frame"].astype(np.float32)})
    assert machine.cuda.calls == []


def test_nan_in_the_answer_is_the_predictors_to_refuse(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer: Callable[..., dict[str, Any]] = Sums.answer
    monkeypatch.setattr(Sums, "answer", staticmethod(lambda given: answer(given) | {"scores": np.full((2, 2), np.nan)}))
    opened = Predictor.over(machine.open(write_engine(tmp_path)), CONTRACT)
    with opened as predictor, pytest.raises(RuntimeFailure, match="NaN"):
        predictor.run(np.zeros((6, 4, 3), dtype=np.uint8))
    assert machine.cuda.live == {}


def test_the_real_libraries_have_what_the_stand_ins_have() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    context = {"set_tensor_address", "execute_async_v3"}
    engine = {
        "num_io_tensors",
        "create_execution_context",
        *(f"get_tensor_{x}" for x in ("name", "mode", "dtype", "shape")),
    }
    assert context <= set(dir(trt.IExecutionContext))
    assert engine <= set(dir(trt.ICudaEngine))
    assert hasattr(trt.Runtime, "deserialize_cuda_engine") and hasattr(trt.TensorIOMode, "INPUT")
    assert trt.nptype(trt.DataType.UINT8).__name__ == "uint8"


def test_the_real_bindings_have_what_the_stand_in_has() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    names = [name for name, _ in inspect.getmembers(CudaStandIn) if name.startswith("cuda")]
    assert len(names) > 20
    assert [name for name in names if not hasattr(runtime, name)] == []
    assert hasattr(runtime.cudaMemcpyKind, "cudaMemcpyHostToDevice")
    assert hasattr(runtime.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")
    assert (int(runtime.cudaError_t.cudaSuccess), int(runtime.cudaError_t.cudaErrorMemoryAllocation)) == (0, 2)
