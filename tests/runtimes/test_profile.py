"""Runtimes that time their nodes: the answers stay the same, and the times are those of the nodes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rs4d_edge.commands.bench_profile import PROFILERS
from rs4d_edge.contract import OUTPUT_NAMES
from rs4d_edge.errors import ClosedError, InputError
from rs4d_edge.export.graph import save_graph, translate_module
from rs4d_edge.layer_times import ProfiledRuntime
from tests.runtimes.tiny_models import SIZE_HW, Sums, feeds

Open = Callable[..., ProfiledRuntime]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of plain operators, which both engines read."""
    inputs = (torch.zeros((2, *SIZE_HW, 3), dtype=torch.uint8), torch.ones((2, 2), dtype=torch.int64))
    graph = translate_module(Sums().eval(), inputs, OUTPUT_NAMES)
    return save_graph(graph, tmp_path_factory.mktemp("profile") / "sums.onnx")


@pytest.fixture(params=sorted(PROFILERS))
def open_profiled(request: pytest.FixtureRequest) -> Open:
    pytest.importorskip(request.param)
    opened: Open = importlib.import_module(PROFILERS[request.param]).open_profiled
    return opened


def test_answers_are_the_runtimes_own_and_every_run_has_its_nodes(open_profiled: Open, model_path: Path) -> None:
    runtime = open_profiled(model_path, threads=1, precision="fp32")
    for seed in range(3):
        found = runtime.run(feeds(seed))
        for name, value in Sums.answer(feeds(seed)).items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)
    runs = runtime.finish()
    assert len(runs) == 3
    for nodes in runs:
        assert nodes
        assert all(node.ms >= 0 and node.name and node.kind for node in nodes)
        assert any(node.name.startswith("graph/") and node.size_bytes > 0 for node in nodes)
    with pytest.raises(ClosedError):
        runtime.run(feeds(0))


def test_unusable_options_are_refused(open_profiled: Open, model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fp12"):
        open_profiled(model_path, threads=None, precision="fp12")
    with pytest.raises(InputError, match="no model file"):
        open_profiled(tmp_path / "missing.onnx", threads=None, precision="fp32")


def test_onnxruntime_leaves_no_file_behind(model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from rs4d_edge.runtimes.onnxruntime_profile import open_profiled

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runtime = open_profiled(model_path, threads=1, precision="fp32")
    runtime.run(feeds(0))
    assert len(list(tmp_path.iterdir())) == 1
    runtime.finish()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ClosedError):
        runtime.finish()


def event(name: str, ts: int, dur: int, kind: str = "Mul", **args: Any) -> dict[str, Any]:
    named = {"op_name": kind, "output_type_shape": [{"float": [2, 3]}], **args}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "args": named}


def model_run(ts: int, dur: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "args": {}}


def test_a_node_around_others_keeps_what_they_leave() -> None:
    """Events come when nodes end: those inside before the one around them."""
    pytest.importorskip("onnxruntime")
    from rs4d_edge.runtimes.onnxruntime_profile import nodes_of_runs

    first = [
        event("a/Add", 0, 10),
        event("inside_twice", 22, 3),
        event("inside", 21, 9, "If"),
        event("inside", 40, 5),
        event("b/Loop", 20, 40, "Loop", output_type_shape=[]),
        event("c/Cast", 60, 2, "Cast", output_type_shape=[{"int64": [4]}]),
        model_run(0, 70),
    ]
    second = [event("a/Add", 100, 7), model_run(95, 20)]
    before = [{"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 1, "args": {}}]
    runs = nodes_of_runs([*before, *first, *second])
    assert [(node.name, node.kind, node.outer, round(node.ms * 1e3)) for node in runs[0]] == [
        ("a/Add", "Mul", None, 10),
        ("b/Loop", "Loop", None, 40 - 9 - 5),
        ("inside", "If", "b/Loop", 9 - 3),
        ("inside_twice", "Mul", "b/Loop", 3),
        ("inside", "Mul", "b/Loop", 5),
        ("c/Cast", "Cast", None, 2),
    ]
    assert [node.size_bytes for node in runs[0]] == [24, 0, 24, 24, 24, 32]
    assert [node.name for node in runs[1]] == ["a/Add"]
