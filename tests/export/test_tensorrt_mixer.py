"""A mixer's core split for TensorRT's plugins: the bodies, in fp32 and fp16, and what cannot be split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.checker
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from rs4d_edge.calibration.fp32_islands import always_fp32, overflowing
from rs4d_edge.calibration.layers import high_precision_group, weighted_layers
from rs4d_edge.errors import ExportError
from rs4d_edge.export.half_precision import to_half
from rs4d_edge.export.mixer_function import MIXER_INPUTS
from rs4d_edge.export.recipes import ScanForm
from rs4d_edge.export.tensorrt_graph import tensorrt_graph
from rs4d_edge.export.tensorrt_mixer import split_mixers
from rs4d_edge.export.tensorrt_mixer_function import core_functions
from rs4d_edge.native.library import MixerShape
from rs4d_edge.reference.mixer_core import mixer_core_composed
from rs4d_edge.runtimes.tensorrt_mixer_operators import MIXER_OPERATORS
from rs4d_edge.runtimes.tensorrt_operator import Operator
from tests.export.test_mixer_function import SHAPES, mixer_model, run_onnx, run_onnxruntime, tokens, weights
from tests.native.cuda_emulation import Emulation
from tests.runtimes.test_tensorrt_plugins import launched

Array = npt.NDArray[Any]
CORE = "backbone.layers.0/MixerCore"
OPERATORS = ["MixerConvolution", "MatMul", "Slice", "MatMul", "MixerScan", "MixerGate"]
HALF_STEP = 2.0**-10  # between neighbouring numbers of fp16, relative


def core_model(*shapes: MixerShape) -> ModelProto:
    """Cores named as the exporter names them."""
    model = mixer_model(*shapes)
    for number, node in enumerate(model.graph.node):
        node.name = f"backbone.layers.{number}/MixerCore"
    return model


def in_float64(shape: MixerShape, uz: Array) -> Array:
    inputs = [torch.from_numpy(value).double() for value in (uz, *weights(shape).values())]
    return mixer_core_composed(*inputs).numpy()


@pytest.mark.parametrize("run", [run_onnxruntime, run_onnx])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_split_core_is_the_core(run: Any, shape: MixerShape) -> None:
    model = split_mixers(core_model(shape))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == OPERATORS
    uz = tokens(shape)
    expected = in_float64(shape, uz)
    np.testing.assert_allclose(run(model, uz), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_in_fp16_the_borders_are_fp16_and_the_weights_of_plugins_are_not() -> None:
    shape = SHAPES[1]
    split = split_mixers(core_model(shape))
    half = to_half(split, always_fp32(split))
    onnx.checker.check_model(half, full_check=True)
    assert [node.op_type for node in half.graph.node] == ["Cast", *OPERATORS, "Cast"]
    held = {each.name: each.data_type for each in half.graph.initializer if each.data_type != TensorProto.INT64}
    in_half = {name for name, kind in held.items() if kind == TensorProto.FLOAT16}
    assert in_half == {"x_proj.0/transposed/fp16", "dt_proj.0/transposed/fp16"}
    assert held.keys() - in_half == {f"{name}.0" for name in MIXER_INPUTS[1:] if name not in ("x_proj", "dt_proj")}
    uz = tokens(shape)
    expected = in_float64(shape, uz.astype(np.float16).astype(np.float32))
    error = np.abs(run_onnxruntime(half, uz) - expected).max() / np.abs(expected).max()
    assert HALF_STEP / 8 < error < 4 * HALF_STEP


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_bodies_give_what_the_kernels_give(dtype: torch.dtype) -> None:
    """Each from the same inputs, so that they round in the same places."""
    emulation = Emulation()
    emulation.reset()
    shape = MixerShape(batch=2, length=37, channels=7, states=4, rank=3, taps=3)
    random = torch.Generator().manual_seed(0)
    wide = (2 * shape.batch, shape.length, shape.channels)  # v's, dt's and y's
    given = {name: torch.from_numpy(value) for name, value in weights(shape).items()}
    given |= {"weight": given["conv_weight"], "bias": given["conv_bias"], "uz": torch.from_numpy(tokens(shape))}
    given |= {name: torch.randn(wide, generator=random) for name in ("v", "dt", "y")}
    given["narrow"] = torch.randn(*wide[:2], shape.rank + 2 * shape.states, generator=random)
    for operator in MIXER_OPERATORS:
        tensors = [
            given[name].to(torch.float32 if place in operator.fp32_inputs else dtype).contiguous()
            for place, name in enumerate(operator.inputs)
        ]
        kernel = launched(emulation, operator, tensors).double().numpy()
        body = run_body(operator, shape, {name: x.numpy() for name, x in zip(operator.inputs, tensors, strict=True)})
        assert body.dtype == tensors[0].numpy().dtype and body.shape == kernel.shape
        rtol, small = (HALF_STEP, 2.0**-16) if dtype == torch.float16 else (0.0, 1e-6)
        np.testing.assert_allclose(body, kernel, rtol, small * np.abs(kernel).max(), err_msg=operator.name)


def run_body(operator: Operator, shape: MixerShape, inputs: Mapping[str, Array]) -> Array:
    """The operator's body in ONNX Runtime."""
    model = split_mixers(core_model(shape))
    node = next(node for node in model.graph.node if node.op_type == operator.name)
    node.input[:], node.output[:] = list(inputs), ["out"]
    kinds = {each: helper.np_dtype_to_tensor_dtype(value.dtype) for each, value in inputs.items()}
    values = [helper.make_tensor_value_info(each, kinds[each], value.shape) for each, value in inputs.items()]
    size = operator.output_shape([value.shape for value in inputs.values()], lambda size: 2 * size)
    out = helper.make_tensor_value_info("out", next(iter(kinds.values())), size)
    model.graph.CopyFrom(helper.make_graph([node], "one", values, [out]))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: Array = session.run(None, dict(inputs))[0]
    return result


def test_what_overflows_within_a_core_stays_in_fp32_up_to_its_end() -> None:
    """x_proj makes numbers that fp16 cannot hold, which dt_proj and the scan read."""
    shape = SHAPES[1]
    model = core_model(shape)
    for held in model.graph.initializer:
        value = numpy_helper.to_array(held).copy()
        if held.name == "x_proj.0":
            value[: shape.rank] *= 4e4
        elif held.name == "dt_proj.0":
            value /= 4e4
        held.CopyFrom(numpy_helper.from_array(value, held.name))
    split = split_mixers(model)
    largest = {f"{CORE}/{name}": 1e6 for name in ("narrow", "dt_columns")}
    islands = {island.node for island in overflowing(split, largest)}
    read = {f"{CORE}/narrow/MatMul", f"{CORE}/dt_columns/Slice", f"{CORE}/dt/MatMul", f"{CORE}/MixerScan"}
    assert islands == read
    half = to_half(split, always_fp32(split) | islands)
    onnx.checker.check_model(half, full_check=True)
    nodes = {node.name: node for node in half.graph.node}
    scan = nodes[f"{CORE}/MixerScan"]
    assert not any(name.endswith("/fp16") for name in (*scan.input, *scan.output))
    assert nodes[f"{CORE}/MixerGate"].input[0] == f"{CORE}/y/fp16"
    assert nodes[f"{CORE}/MixerConvolution"].output[0] == f"{CORE}/v/fp16"
    uz = tokens(shape)
    # ONNX Runtime's CPU provider computes neighbours in fp32 and hands on fp32: it would not show the overflow.
    found, exact = run_onnx(half, uz), run_onnx(split, uz)
    assert np.abs(found - exact).max() < 4 * HALF_STEP * np.abs(exact).max()
    with np.errstate(all="ignore"):
        assert np.isnan(run_onnx(to_half(split, ()), uz)).any()


def test_products_within_a_core_are_not_quantized() -> None:
    layers = weighted_layers(split_mixers(core_model(SHAPES[0])))
    assert layers == [f"{CORE}/narrow/MatMul", f"{CORE}/dt/MatMul"]
    assert {high_precision_group(name) for name in layers} == {"scan and mixer core"}


def test_every_node_says_which_plugin_it_is_for() -> None:
    """And every function takes what its nodes say: ONNX Runtime and the checker would refuse it otherwise."""
    model = tensorrt_graph(core_model(SHAPES[0], SHAPES[0]), ScanForm.PLUGIN)
    own = [node for node in model.graph.node if node.domain]
    assert [node.op_type for node in own] == [operator.name for operator in MIXER_OPERATORS] * 2
    for node in own:
        said = {each.name: (each.type, helper.get_attribute_value(each)) for each in node.attribute}
        text = onnx.AttributeProto.STRING
        assert said == {"plugin_namespace": (text, b"rs4d"), "plugin_version": (text, b"1")}
    taken = [list(function.attribute) for function in core_functions(3, 4)]
    assert taken == [["plugin_namespace", "plugin_version"]] * 3
    assert [function.name for function in model.functions][1:] == [operator.name for operator in MIXER_OPERATORS]
    assert split_mixers(model) == model


def test_mixers_that_the_plugins_do_not_serve_are_refused() -> None:
    with pytest.raises(ExportError, match=r"0/MixerCore has 5 taps and 2 states.*at most 4 and 16: use --scan plain"):
        split_mixers(core_model(SHAPES[0]._replace(taps=5)))
    with pytest.raises(ExportError, match=r"0/MixerCore has 4 taps and 17 states"):
        split_mixers(core_model(SHAPES[0]._replace(states=17)))
    with pytest.raises(ExportError, match=r"shapes \[\(3, 2\), \(3, 4\)\]"):
        split_mixers(core_model(SHAPES[0], SHAPES[0]._replace(taps=2)))
    unknown = core_model(SHAPES[0])
    unknown.graph.node[0].input[3] = "uz"
    with pytest.raises(ExportError, match=r"0/MixerCore reads weights that are no constants: uz"):
        split_mixers(unknown)
    lone = core_model(SHAPES[0])
    lone.graph.node[0].op_type = "SelectiveScan"
    with pytest.raises(ExportError, match=r"0/MixerCore stands outside of a mixer's core.*use --scan plain"):
        split_mixers(lone)


def test_an_engine_is_built_of_the_plugins_in_both_types(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    from rs4d_edge.runtimes.tensorrt_build import build_engine
    from rs4d_edge.runtimes.tensorrt_host import host_of

    split = split_mixers(core_model(SHAPES[2]))
    for name, model in (("fp32", split), ("fp16", to_half(split, always_fp32(split)))):
        path = tmp_path / f"{name}.onnx"
        onnx.save(tensorrt_graph(model, ScanForm.PLUGIN), path)
        record = build_engine(path, tmp_path, name, host_of(trt, None, "8.6"))
        assert record.plugins[:3] == ("rs4d::MixerConvolution", "rs4d::MixerScan", "rs4d::MixerGate")
        assert record.outputs[0].shape == (2, 32, 16) and record.outputs[0].dtype == "float32"
