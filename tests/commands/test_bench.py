from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rs4d_edge.bundle import write_bundle
from rs4d_edge.commands.bench import app
from rs4d_edge.commands.bench_latency import STAGES, WARM_UP_RUNS, Latency, measure
from rs4d_edge.contract import OUTPUT_NAMES, ModelContract
from rs4d_edge.errors import BundleError, FrameError, InputError
from rs4d_edge.manifest import WeightsRecord
from rs4d_edge.predictor import Predictor
from tests.runtimes.tiny_models import SIZE_HW, Sums
from tests.stand_ins import KnownRuntime, contract, golden_frame, outputs, parity, small_bundle, square_detections


class OneFrame(Sums):
    """For batches of one."""

    contract = ModelContract(image_size_hw=SIZE_HW, classes=("a", "b"), max_detections=2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of plain operators, which ONNX Runtime and OpenVINO open."""
    from rs4d_edge.export.graph import save_graph, translate_module

    out = tmp_path_factory.mktemp("bench") / "bundle"
    inputs = (torch.zeros((1, *SIZE_HW, 3), dtype=torch.uint8), torch.ones((1, 2), dtype=torch.int64))
    graph = translate_module(OneFrame().eval(), inputs, OUTPUT_NAMES)
    with write_bundle(out) as draft:
        path = save_graph(graph, draft.path / "model.onnx")
        draft.add_golden(golden_frame(), square_detections())
        draft.seal(
            name="sums",
            target="onnx",
            runtime="onnxruntime",
            precision="fp32",
            contract=OneFrame.contract,
            model=path.name,
            weights=WeightsRecord(name="none", sha256="0" * 64),
            parity=parity(),
        )
    return out


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_latency_and_profile_are_printed_and_written(bundle: Path, tmp_path: Path, runtime: str) -> None:
    pytest.importorskip(runtime)
    written = tmp_path / "bench.json"
    result = run(
        str(bundle), "--profile", "--runtime", runtime, "--threads", "1", "--runs", "4", "--json", str(written)
    )
    assert result.exit_code == 0, result.exception
    for text in ("sums", runtime, "resize", "total", "Layer groups", "Operator kinds", "Moved without arithmetic"):
        assert text in result.output
    record = json.loads(written.read_text())
    assert (record["runtime"], record["threads"], record["runs"]) == (runtime, 1, 4)
    assert record["frame_hw"] == [40, 50]
    assert set(record["latency"]) == {"resize", "infer", "post", "total"}
    for figures in record["latency"].values():
        assert 0 <= figures["p50_ms"] <= figures["p90_ms"] <= figures["max_ms"]
    profile = record["profile"]
    assert sum(group["ms"] for group in profile["groups"]) == pytest.approx(profile["nodes_ms"])
    assert sum(kind["nodes"] for kind in profile["kinds"]) == sum(group["nodes"] for group in profile["groups"])
    assert record["machine"]["packages"][runtime]


def test_without_profile_there_is_latency_alone(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    image, written = tmp_path / "image.png", tmp_path / "bench.json"
    cv2.imwrite(str(image), np.full((20, 30, 3), 90, np.uint8))
    result = run(str(bundle), "--frame", str(image), "--runs", "1", "--json", str(written))
    assert result.exit_code == 0, result.exception
    assert "Layer groups" not in result.output
    record = json.loads(written.read_text())
    assert record["frame_hw"] == [20, 30]
    assert "profile" not in record


def test_warm_up_runs_are_not_counted() -> None:
    model = contract()
    runtime = KnownRuntime(model, outputs(model, [[1, 1, 20, 20]], [0.9], [1]))
    with Predictor.over(runtime, model) as predictor:
        latency = measure(predictor, golden_frame(), runs=5)
    assert len(runtime.feeds) == WARM_UP_RUNS + 5
    assert {stage: len(times) for stage, times in latency.runs.items()} == dict.fromkeys(STAGES, 5)
    assert latency.objects == 1


def test_figures_are_percentiles() -> None:
    latency = Latency({"total_ms": [float(value) for value in range(1, 12)]}, 0)
    assert latency.figures() == {"total": {"p50_ms": 6.0, "p90_ms": 10.0, "max_ms": 11.0}}


def test_what_cannot_be_timed_is_named(bundle: Path, tmp_path: Path) -> None:
    assert isinstance(run(str(tmp_path / "absent")).exception, BundleError)
    assert isinstance(run(str(bundle), "--json", str(tmp_path)).exception, InputError)
    assert isinstance(run(str(bundle), "--frame", str(tmp_path / "absent.png")).exception, FrameError)
    small_bundle(tmp_path / "small", runtime="torch")
    refused = run(str(tmp_path / "small"), "--profile").exception
    assert isinstance(refused, InputError)
    assert "onnxruntime" in str(refused) and "torch" in str(refused)
