"""The mixer's core in standard operators against its pieces in float64: ONNX Runtime, OpenVINO, onnx's evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnx.shape_inference
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from rs4d_edge.errors import ExportError
from rs4d_edge.export.mixer_function import MIXER_INPUTS, MIXER_OP
from rs4d_edge.export.scan_function import (
    CHUNK,
    OPSET,
    SCAN_DOMAIN,
    SCAN_OP,
    add_scan_function,
    has_scan,
    inline_scan,
    without_scan_function,
)
from rs4d_edge.native.library import MixerShape
from rs4d_edge.reference.mixer_core import mixer_core_composed

Array = npt.NDArray[Any]
Run = Callable[[ModelProto, Array], Array]
SHAPES = [  # one token, channels that fill no vector, more than one chunk; 16 channels fit ONNX Runtime's blocks
    MixerShape(batch=1, length=1, channels=3, states=2, rank=1, taps=4),
    MixerShape(batch=2, length=2 * CHUNK + 5, channels=7, states=4, rank=3, taps=3),
    MixerShape(batch=2, length=CHUNK, channels=16, states=8, rank=2, taps=4),
]


def weights(shape: MixerShape) -> dict[str, Array]:
    """By the names of the node's inputs, uz left out."""
    rng = np.random.default_rng(shape.channels)
    _, _, channels, states, rank, taps = shape
    sizes = [(channels, taps), (channels,), (rank + 2 * states, channels), (channels, rank)]
    values = [rng.standard_normal(size, dtype=np.float32) * np.float32(size[-1] ** -0.5) for size in sizes]
    values.append(rng.uniform(-6, 1, channels).astype(np.float32))
    values.append(-rng.uniform(0.5, 16, (channels, states)).astype(np.float32))
    values.append(rng.standard_normal(channels, dtype=np.float32))
    return dict(zip(MIXER_INPUTS[1:], values, strict=True))


def tokens(shape: MixerShape) -> Array:
    """uz."""
    rng = np.random.default_rng(1)
    return 2 * rng.standard_normal((shape.batch, shape.length, 2 * shape.channels), dtype=np.float32)


def mixer_model(*shapes: MixerShape) -> ModelProto:
    """A node for each of `shapes`, its weights as constants, all on the tokens of one input; no bodies yet."""
    first = shapes[0]
    nodes, constants, outputs = [], [], []
    for index, shape in enumerate(shapes):
        constants += [numpy_helper.from_array(value, f"{name}.{index}") for name, value in weights(shape).items()]
        names = [f"{name}.{index}" for name in MIXER_INPUTS[1:]]
        y = f"y.{index}"
        nodes.append(helper.make_node(MIXER_OP, ["uz", *names], [y], domain=SCAN_DOMAIN))
        outputs.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, (shape.batch, shape.length, shape.channels)))
    given = helper.make_tensor_value_info("uz", TensorProto.FLOAT, (first.batch, first.length, 2 * first.channels))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(SCAN_DOMAIN, 1)]
    graph = helper.make_graph(nodes, "mixer", [given], outputs, constants)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run_onnxruntime(model: ModelProto, uz: Array) -> Array:
    """Through the functions themselves."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {"uz": uz})[0]
    return result


def run_openvino(model: ModelProto, uz: Array) -> Array:
    """Through the inlined bodies."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(inline_scan(model).SerializeToString()), "CPU", options)
    result: Array = compiled({"uz": uz})[0].copy()
    return result


def run_onnx(model: ModelProto, uz: Array) -> Array:
    """Through onnx's own evaluator, which takes the text of the standard at its word."""
    results = onnx.reference.ReferenceEvaluator(model).run(None, {"uz": uz})
    assert isinstance(results, list)  # a dictionary only where it is asked for everything
    result: Array = results[0]
    return result


@pytest.mark.parametrize("run", [run_onnxruntime, run_openvino, run_onnx])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_body_is_the_core(run: Run, shape: MixerShape) -> None:
    uz = tokens(shape)
    inputs = [torch.from_numpy(value).double() for value in (uz, *weights(shape).values())]
    expected = mixer_core_composed(*inputs).numpy()
    found = run(add_scan_function(mixer_model(shape)), uz)
    # OpenVINO's softplus is absolutely, not relatively exact: 2e-6 where the step size is below 1e-2.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_bodies_are_added_once_and_taken_off_again() -> None:
    model = add_scan_function(mixer_model(SHAPES[0], SHAPES[0]))
    assert [function.name for function in add_scan_function(model).functions] == [SCAN_OP, MIXER_OP]
    onnx.checker.check_model(model, full_check=True)
    bare = without_scan_function(model)
    assert has_scan(bare) and not bare.functions and model.functions


def test_inlined_model_has_standard_operators_alone() -> None:
    inlined = inline_scan(mixer_model(SHAPES[1]))
    onnx.checker.check_model(inlined, full_check=True)
    assert not has_scan(inlined) and not inlined.functions
    assert [opset.domain for opset in inlined.opset_import] == [""]
    assert {node.domain for node in inlined.graph.node} == {""}


@pytest.mark.parametrize("prepare", [add_scan_function, inline_scan])
def test_the_output_s_shape_can_be_inferred(prepare: Callable[[ModelProto], ModelProto]) -> None:
    model = mixer_model(SHAPES[1])
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(prepare(model), check_type=True, strict_mode=True, data_prop=True)
    axes = inferred.graph.output[0].type.tensor_type.shape.dim
    assert [axis.dim_value for axis in axes] == [2, 2 * CHUNK + 5, 7]


def test_widths_that_one_body_cannot_serve_are_refused() -> None:
    other = SHAPES[0]._replace(taps=2)
    with pytest.raises(ExportError, match=r"\[\(3, 2\), \(3, 4\)\]"):
        add_scan_function(mixer_model(SHAPES[0], other))


def test_a_weight_of_unknown_shape_is_refused() -> None:
    model = mixer_model(SHAPES[0])
    del model.graph.initializer[:]
    with pytest.raises(ExportError, match="one known shape"):
        add_scan_function(model)
