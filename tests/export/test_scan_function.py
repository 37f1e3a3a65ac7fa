"""The scan's body in standard operators against the step-by-step definition, in ONNX Runtime and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper

from rs4d_edge.export.scan_function import (
    CHUNK,
    OPSET,
    SCAN_DOMAIN,
    SCAN_INPUTS,
    SCAN_OP,
    add_scan_function,
    has_scan,
    inline_scan,
    without_scan_function,
)
from rs4d_edge.reference.scan import selective_scan_reference

Feeds = dict[str, npt.NDArray[Any]]
SHAPES = [(1, 1, 3, 2), (2, CHUNK - 1, 4, 3), (1, CHUNK, 4, 1), (2, 3 * CHUNK + 5, 7, 4)]  # (batch, tokens, E, N)


def scan_model(shape: tuple[int, int, int, int], reverse: int) -> ModelProto:
    """One scan node and its body."""
    batch, tokens, channels, states = shape
    shapes = [(batch, tokens, channels)] * 2 + [(channels, states)] + [(batch, tokens, states)] * 2 + [(channels,)]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in zip(SCAN_INPUTS, shapes, strict=True)
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes[0])
    node = helper.make_node(SCAN_OP, SCAN_INPUTS, ["y"], domain=SCAN_DOMAIN, reverse=reverse)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(SCAN_DOMAIN, 1)]
    graph = helper.make_graph([node], "scan", inputs, [output])
    return add_scan_function(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def random_feeds(shape: tuple[int, int, int, int], largest_decay: float) -> Feeds:
    """Steps between 0 and 2, decays up to `largest_decay`."""
    batch, tokens, channels, states = shape
    rng = np.random.default_rng(tokens)
    return {
        "u": rng.standard_normal((batch, tokens, channels), dtype=np.float32),
        "delta": rng.uniform(0, 2, (batch, tokens, channels)).astype(np.float32),
        "a": -rng.uniform(0, largest_decay, (channels, states)).astype(np.float32),
        "b": rng.standard_normal((batch, tokens, states), dtype=np.float32),
        "c": rng.standard_normal((batch, tokens, states), dtype=np.float32),
        "d": rng.standard_normal(channels, dtype=np.float32),
    }


def run_onnxruntime(model: ModelProto, feeds: Feeds) -> npt.NDArray[Any]:
    """Through the function itself."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: npt.NDArray[Any] = session.run(None, feeds)[0]
    return result


def run_openvino(model: ModelProto, feeds: Feeds) -> npt.NDArray[Any]:
    """Through the inlined body."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(inline_scan(model).SerializeToString()), "CPU", options)
    result: npt.NDArray[Any] = compiled(feeds)[0].copy()
    return result


@pytest.mark.parametrize("run", [run_onnxruntime, run_openvino])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_body_is_the_scan(
    run: Callable[[ModelProto, Feeds], npt.NDArray[Any]], reverse: int, shape: tuple[int, int, int, int]
) -> None:
    feeds = random_feeds(shape, largest_decay=2.0)
    expected = definition(feeds, reverse)
    np.testing.assert_allclose(run(scan_model(shape, reverse), feeds), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("run", [run_onnxruntime, run_openvino])
def test_body_stays_exact_where_dividing_the_decay_would_overflow(
    run: Callable[[ModelProto, Feeds], npt.NDArray[Any]],
) -> None:
    shape = (1, 4 * CHUNK, 4, 2)
    feeds = random_feeds(shape, largest_decay=60.0)  # the decay's exponents add up to thousands
    exponents = feeds["delta"].sum(axis=1)[:, :, None] * feeds["a"]
    assert exponents.min() < -1000  # the reciprocal of such a decay is infinite in fp32, and 88 is enough
    np.testing.assert_allclose(run(scan_model(shape, 0), feeds), definition(feeds, 0), rtol=1e-5, atol=1e-5)


def test_body_is_added_once_and_taken_off_again() -> None:
    model = scan_model(SHAPES[0], 0)
    assert [function.name for function in add_scan_function(model).functions] == [SCAN_OP]
    bare = without_scan_function(model)
    assert has_scan(bare) and not bare.functions and model.functions


def test_inlined_model_has_standard_operators_alone() -> None:
    inlined = inline_scan(scan_model(SHAPES[1], 1))
    onnx.checker.check_model(inlined, full_check=True)
    assert not has_scan(inlined) and not inlined.functions
    assert [opset.domain for opset in inlined.opset_import] == [""]
    assert {node.domain for node in inlined.graph.node} == {""}


def definition(feeds: Feeds, reverse: int) -> npt.NDArray[Any]:
    """Token by token, in float64."""
    tensors = [torch.from_numpy(feeds[name]).double() for name in SCAN_INPUTS]
    return selective_scan_reference(*tensors, reverse=bool(reverse)).numpy()
