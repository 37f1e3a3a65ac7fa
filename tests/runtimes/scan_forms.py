"""Every form in which the scan and the mixer's core are computed, all called alike, for tests.

A form takes the arrays of an operation in its order of inputs and answers with its outputs: of `SelectiveScan` both
directions, of `MixerCore` the one. Engines keep one compiled model for each set of shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import openvino
import pytest
import torch
from onnx import ModelProto, TensorProto, helper

from rs4d_edge.export.mixer_function import MIXER_INPUTS, MIXER_OP
from rs4d_edge.export.scan_function import OPSET, SCAN_DOMAIN, SCAN_INPUTS, SCAN_OP, add_scan_function, inline_scan
from rs4d_edge.native.library import HIDE_VARIABLE
from rs4d_edge.reference.mixer_core import mixer_core
from rs4d_edge.reference.scan import selective_scan
from rs4d_edge.runtimes import onnxruntime_scan
from tests.runtimes.openvino_ways import make_core, need_native

Array = npt.NDArray[Any]
Arrays = Sequence[Array]
Compute = Callable[[str, Arrays], list[Array]]
INPUTS = {SCAN_OP: SCAN_INPUTS, MIXER_OP: MIXER_INPUTS}
THREADS = 2


class Form(NamedTuple):
    """`limits`: by operation, the largest error relative to the largest magnitude of the exact outputs.

    `dtype`: what the inputs are rounded to before anything is computed from them, also in the exact outputs.
    `any_shape`: nothing is compiled for a shape. `single`: computes and answers in fp32. `exact_tails`: sigmoid and
    softplus are exact relatively, also where next to nothing is left of them.
    """

    compute: Compute
    limits: dict[str, float]
    dtype: torch.dtype = torch.float32
    any_shape: bool = False
    single: bool = True
    exact_tails: bool = True


def torch_form(dtype: torch.dtype, limits: dict[str, float], *, native: bool) -> Form:
    """The torch operators, by the native library or by their pieces; on inputs and outputs of `dtype`."""

    def compute(op: str, arrays: Arrays) -> list[Array]:
        tensors = [torch.from_numpy(array).to(dtype) for array in arrays]
        with pytest.MonkeyPatch.context() as patch:
            if native:
                need_native(patch)
            else:
                patch.setenv(HIDE_VARIABLE, "1")
            if op == MIXER_OP:
                results = [mixer_core(*tensors)]
            else:
                results = [selective_scan(*tensors, reverse=reverse) for reverse in (False, True)]
        assert all(result.dtype == dtype for result in results)
        return [result.double().numpy() for result in results]

    return Form(compute, limits, dtype, any_shape=True, single=dtype == torch.float32)


def onnxruntime_form(limits: dict[str, float], *, native: bool) -> Form:
    """ONNX Runtime on a file of nodes with bodies: by our library, or by the bodies as on a stock runtime."""

    def compile_model(model: ModelProto) -> Callable[[dict[str, Array]], list[Array]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the processor is shared
        options.log_severity_level = 3
        if native:
            with pytest.MonkeyPatch.context() as patch:
                patch.delenv(HIDE_VARIABLE, raising=False)
                if problem := onnxruntime_scan._library_problem():
                    pytest.skip(f"the library for ONNX Runtime is not there and cannot be built: {problem}")
                assert onnxruntime_scan.add_scan_kernel(options)
        content = add_scan_function(model).SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return lambda feeds: list(session.run(None, feeds))

    return Form(_kept_by_shape(compile_model, products=False), limits, exact_tails=native)


def openvino_form(limits: dict[str, float], way: str, precision: str = "f32") -> Form:
    """OpenVINO on nodes of ours by "c++" or "python", or on their bodies in standard operators ("plain").

    In bf16 there are matrix products by one around each operation, as in a model: they are what the hint is about.
    """
    cores: list[openvino.Core] = []  # made once, and alive as long as the models that use its extension

    def compile_model(model: ModelProto) -> Callable[[dict[str, Array]], list[Array]]:
        if not cores:
            with pytest.MonkeyPatch.context() as patch:
                if way != "plain":
                    need_native(patch)
                cores.append(openvino.Core() if way == "plain" else make_core(way, patch))
        core = cores[0]
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip("this processor has no bf16 instructions")
        source = inline_scan(model) if way == "plain" else model
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1}
        compiled = core.compile_model(core.read_model(source.SerializeToString()), "CPU", options)
        request = compiled.create_infer_request()

        def run(feeds: dict[str, Array]) -> list[Array]:
            request.infer(feeds)
            return [request.get_output_tensor(index).data.copy() for index in range(len(compiled.outputs))]

        return run

    products = precision == "bf16"
    compute = _kept_by_shape(compile_model, products=products)
    return Form(compute, limits, single=not products, exact_tails=way != "plain")


def _kept_by_shape(compile_model: Callable[[ModelProto], Any], *, products: bool) -> Compute:
    """Runs an operation through a model of it alone, which is compiled when its shapes come for the first time."""
    compiled: dict[Any, Callable[[dict[str, Array]], list[Array]]] = {}

    def compute(op: str, arrays: Arrays) -> list[Array]:
        shapes = {name: array.shape for name, array in zip(INPUTS[op], arrays, strict=True)}
        key = (op, tuple(shapes.values()))
        if key not in compiled:
            compiled[key] = compile_model(make_model(op, shapes, products=products))
        return compiled[key](dict(zip(shapes, arrays, strict=True)))

    return compute


def make_model(op: str, shapes: dict[str, tuple[int, ...]], *, products: bool) -> ModelProto:
    """The operation, a scan in both directions, with every input the model's own; no bodies yet.

    With `products` the tokens come from a product with the identity, and each output goes through one.
    """
    first, *others = shapes
    (batch, tokens, width), channels = shapes[first], shapes["d"][0]
    attributes: list[dict[str, Any]] = [{"reverse": 0}, {"reverse": 1}] if op == SCAN_OP else [{}]
    names = [f"y{index}" for index in range(len(attributes))]
    nodes, constants = [], []
    given, made = first, names
    if products:
        given, made = "read", [f"{name}_made" for name in names]
        constants = [onnx.numpy_helper.from_array(np.eye(n, dtype=np.float32), f"eye{n}") for n in {width, channels}]
        nodes.append(helper.make_node("MatMul", [first, f"eye{width}"], [given]))
    for name, attribute in zip(made, attributes, strict=True):
        nodes.append(helper.make_node(op, [given, *others], [name], domain=SCAN_DOMAIN, **attribute))
    if products:
        nodes += [helper.make_node("MatMul", [x, f"eye{channels}"], [y]) for x, y in zip(made, names, strict=True)]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (batch, tokens, channels)) for name in names]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(SCAN_DOMAIN, 1)]
    graph = helper.make_graph(nodes, op, inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
