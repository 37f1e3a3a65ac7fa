"""The scan's kernel in ONNX Runtime: same numbers as the function body, and taken in preference to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.export.scan_function import SCAN_INPUTS, add_scan_function
from rs4d_edge.native.build import find_compiler
from rs4d_edge.native.library import HIDE_VARIABLE
from rs4d_edge.reference.scan import selective_scan_reference
from rs4d_edge.runtimes import onnxruntime_scan

SHAPES = {"u": (2, 37, 24), "delta": (2, 37, 24), "a": (24, 8), "b": (2, 37, 8), "c": (2, 37, 8), "d": (24,)}


@pytest.fixture(scope="module")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the library freshly built; skips where the headers or a compiler are missing."""
    folder = tmp_path_factory.mktemp("onnxruntime_scan")
    try:
        onnxruntime_scan.find_headers()
        find_compiler()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    onnxruntime_scan.build_scan_library(folder)
    return folder


def _model(reverse: bool) -> ModelProto:
    node = helper.make_node("SelectiveScan", SCAN_INPUTS, ["y"], domain="rs4d", reverse=int(reverse))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in SHAPES.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPES["u"])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("rs4d", 1)]
    graph = helper.make_graph([node], "scan", inputs, [output])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def _feeds() -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    random = np.random.default_rng(0)
    feeds = {name: random.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    return feeds | {"delta": np.abs(feeds["delta"]), "a": -np.exp(feeds["a"])}


def _run(model: ModelProto, options: onnxruntime.SessionOptions, profile: Path) -> tuple[Any, set[str]]:
    """The output, and the operators that ran."""
    options.enable_profiling = True
    options.profile_file_prefix = str(profile)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, _feeds())
    events = json.loads(Path(session.end_profiling()).read_text())
    return y, {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("with_function", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_kernel_runs_in_place_of_the_function(
    library_folder: Path, tmp_path: Path, reverse: bool, with_function: bool, threads: int
) -> None:
    model = add_scan_function(_model(reverse)) if with_function else _model(reverse)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    onnxruntime_scan.add_scan_kernel(options, library_folder)
    got, operators = _run(model, options, tmp_path / "kernel")
    assert operators == {"SelectiveScan"}
    tensors = [torch.from_numpy(_feeds()[name]).double() for name in SCAN_INPUTS]
    want = selective_scan_reference(*tensors, reverse=reverse)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5, rtol=1e-5)


def test_the_same_file_runs_without_the_kernel(library_folder: Path, tmp_path: Path) -> None:
    model = add_scan_function(_model(reverse=True))
    options = onnxruntime.SessionOptions()
    onnxruntime_scan.add_scan_kernel(options, library_folder)
    native, _ = _run(model, options, tmp_path / "kernel")
    plain, operators = _run(model, onnxruntime.SessionOptions(), tmp_path / "plain")
    assert "SelectiveScan" not in operators
    np.testing.assert_allclose(native, plain, atol=1e-5, rtol=1e-5)


def test_shapes_that_do_not_fit_are_named(library_folder: Path) -> None:
    model = _model(reverse=False)
    for value in model.graph.input:
        if value.name == "d":
            value.type.tensor_type.shape.dim[0].dim_value = 23
    options = onnxruntime.SessionOptions()
    onnxruntime_scan.add_scan_kernel(options, library_folder)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match=r"d is \(23\), expected \(24\)"):
        session.run(None, _feeds() | {"d": np.zeros(23, np.float32)})


def test_missing_headers_tell_where_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(onnxruntime_scan.INCLUDE_VARIABLE, str(tmp_path))
    with pytest.raises(RuntimeUnavailable, match="libonnxruntime-dev"):
        onnxruntime_scan.build_scan_library(tmp_path)
    assert onnxruntime_scan.main() == 1


def test_library_must_be_there_and_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match="is not there: run"):
        onnxruntime_scan.scan_library(tmp_path)
    (tmp_path / onnxruntime_scan.LIBRARY_NAME).write_bytes(b"not a library")
    with pytest.raises(RuntimeUnavailable, match="does not load"):
        onnxruntime_scan.scan_library(tmp_path)
    monkeypatch.setenv(HIDE_VARIABLE, "1")
    with pytest.raises(RuntimeUnavailable, match=HIDE_VARIABLE):
        onnxruntime_scan.scan_library(tmp_path)
