"""TensorRT's plugins for a mixer's core: their identity, workspace and types, and what they launch, emulated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rs4d_edge.errors import RuntimeFailure
from rs4d_edge.native.cuda_launch import plan_scan
from rs4d_edge.native.library import MixerShape, ScanShape
from rs4d_edge.reference.scan_cuda import ELEMENTS
from rs4d_edge.runtimes import tensorrt_plugins
from rs4d_edge.runtimes.tensorrt_mixer_operators import MIXER_OPERATORS
from rs4d_edge.runtimes.tensorrt_operator import Buffers, Operator
from rs4d_edge.runtimes.tensorrt_plugins import PLUGIN_NAMES, PLUGIN_NAMESPACE, PLUGIN_VERSION
from tests.native.cuda_emulation import Emulation
from tests.native.test_cuda_mixer import expected, make_inputs, relative

CONVOLUTION, SCAN, GATE = MIXER_OPERATORS
SHAPE = MixerShape(batch=2, length=45, channels=36, states=5, rank=3, taps=3)
TYPES = [(torch.float32, "FLOAT", 2e-6), (torch.float16, "HALF", 2.0**-8), (torch.bfloat16, "BF16", 2.0**-5)]


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulation]:
    emulation = Emulation()
    emulation.reset()
    monkeypatch.setattr(tensorrt_plugins, "_kernels", lambda: emulation.scan.kernels)
    yield emulation
    emulation.reset()


def plugin_of(trt: Any, name: str) -> Any:
    """As the parser makes it: by the registry's creator, from a node's attributes, none of which it knows."""
    tensorrt_plugins.register_plugins(trt)
    tensorrt_plugins.register_plugins(trt)  # a second time is no error
    creator = trt.get_plugin_registry().get_creator(name, PLUGIN_VERSION, PLUGIN_NAMESPACE)
    field = trt.PluginField("unknown", np.array([1], dtype=np.int32), trt.PluginFieldType.INT32)
    return creator.create_plugin("node", trt.PluginFieldCollection([field]), trt.TensorRTPhase.BUILD)


def output_of(operator: Operator, inputs: Sequence[Tensor]) -> Tensor:
    """What is to be written over: NaN, or -1."""
    dims = [tuple(x.shape) for x in inputs]
    fill, dtype = (-1, torch.int32) if operator.int32_output else (torch.nan, inputs[0].dtype)
    return torch.full(tuple(operator.output_shape(dims, lambda size: 2 * size)), fill, dtype=dtype)


def launched(emulation: Emulation, operator: Operator, inputs: Sequence[Tensor]) -> Tensor:
    """Through `launch` itself; output and workspace hold NaN before."""
    dims = [tuple(x.shape) for x in inputs]
    output = output_of(operator, inputs)
    workspace = torch.full((operator.workspace_bytes(dims) // 4,), torch.nan)
    addresses = [x.data_ptr() for x in inputs]
    buffers = Buffers(ELEMENTS[inputs[0].dtype], addresses, output.data_ptr(), workspace.data_ptr())
    operator.launch(emulation.scan.kernels, dims, buffers, 0)
    return output


def enqueued(trt: Any, operator: Operator, kind: str, inputs: Sequence[Tensor]) -> Tensor:
    """Through a plugin as an engine's context calls it."""
    dims = [tuple(x.shape) for x in inputs]
    kinds = ["FLOAT" if place in operator.fp32_inputs else kind for place in range(len(inputs))]
    kinds = ["INT32" if place in operator.int32_inputs else each for place, each in enumerate(kinds)]
    tensors = [
        SimpleNamespace(dims=size, type=getattr(trt.DataType, each)) for size, each in zip(dims, kinds, strict=True)
    ]
    output = output_of(operator, inputs)
    plugin = plugin_of(trt, operator.name).attach_to_context(None).clone()
    size = plugin.get_workspace_size([SimpleNamespace(max=each) for each in dims], None)
    workspace = torch.full((size // 4,), torch.nan)
    addresses = [x.data_ptr() for x in inputs]
    plugin.enqueue(tensors, None, addresses, [output.data_ptr()], workspace.data_ptr(), 0)
    return output


@pytest.mark.parametrize(("dtype", "kind", "tolerance"), TYPES)
def test_the_plugins_around_two_products_are_a_mixer_s_core(
    emulated: Emulation, dtype: torch.dtype, kind: str, tolerance: float
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    uz, weight, bias, x_proj, dt_proj, dt_bias, a, d = make_inputs(SHAPE)
    uz = uz.to(dtype)
    v = enqueued(trt, CONVOLUTION, kind, (uz, weight, bias))
    narrow = functional.linear(v, x_proj.to(dtype))
    dt = functional.linear(narrow[..., : SHAPE.rank], dt_proj.to(dtype))
    y = enqueued(trt, SCAN, kind, (v, dt, narrow, dt_bias, a, d))
    out = enqueued(trt, GATE, kind, (y, uz))
    assert v.shape == y.shape == (4, 45, 36) and out.shape == (2, 45, 36) and out.dtype == dtype
    assert relative(out, expected(SHAPE, [uz, weight, bias, x_proj, dt_proj, dt_bias, a, d])) <= tolerance


def test_a_scan_that_is_cut_into_segments_uses_its_workspace(emulated: Emulation) -> None:
    """One sequence on many processors."""
    shape = MixerShape(batch=1, length=260, channels=16, states=8, rank=2, taps=4)
    multiprocessors = emulated.scan.kernels.driver.multiprocessors
    assert plan_scan(ScanShape(*shape[:4]), 2, multiprocessors).segments > 1
    inputs = make_inputs(shape)
    v = launched(emulated, CONVOLUTION, inputs[:3])
    narrow = functional.linear(v, inputs[3])
    dt = functional.linear(narrow[..., : shape.rank], inputs[4])
    out = launched(emulated, GATE, (launched(emulated, SCAN, (v, dt, narrow, *inputs[5:])), inputs[0]))
    assert relative(out, expected(shape, inputs)) <= 2e-6


@pytest.mark.parametrize("shape", [(1, 24, 32, 4), (1, 1600, 256, 8), (2, 1000, 100, 16), (1, 4096, 512, 16)])
@pytest.mark.parametrize("multiprocessors", [1, 4, 8, 16, 46, 84, 128, 170])
def test_the_workspace_is_enough_on_every_gpu(shape: tuple[int, int, int, int], multiprocessors: int) -> None:
    batch, length, channels, states = shape
    wide, weights = (2 * batch, length, channels), [(channels,), (channels, states), (channels,)]
    given = SCAN.workspace_bytes([wide, wide, (2 * batch, length, 3 + 2 * states), *weights])
    assert 4 * plan_scan(ScanShape(*shape), 2, multiprocessors).carry_floats <= given < 16 << 20
    assert not CONVOLUTION.workspace_bytes([wide]) and not GATE.workspace_bytes([wide])


@pytest.mark.parametrize("operator", MIXER_OPERATORS, ids=lambda operator: operator.name)
def test_types_that_go_together_are_taken(operator: Operator) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    plugin, count = plugin_of(trt, operator.name), len(operator.inputs)
    float32, half, int8 = trt.DataType.FLOAT, trt.DataType.HALF, trt.DataType.INT8

    def taken(kind: Any, *, layout: Any = trt.TensorFormat.LINEAR, **other: Any) -> bool:
        names = [*operator.inputs, "out"]
        kinds = [float32 if place in operator.fp32_inputs else kind for place in range(count + 1)]
        kinds = [other.get(name, each) for name, each in zip(names, kinds, strict=True)]
        tensors = [SimpleNamespace(desc=SimpleNamespace(type=each, format=layout)) for each in kinds]
        return all(plugin.supports_format_combination(place, tensors, count) for place in range(count + 1))

    assert taken(float32) and taken(half) and taken(trt.DataType.BF16)
    assert not taken(int8) and not taken(float32, layout=trt.TensorFormat.HWC8)
    assert not taken(half, out=float32) and not taken(float32, out=half)
    for place, name in enumerate(operator.inputs[1:], start=1):
        wrong = half if place in operator.fp32_inputs else float32
        assert not taken(half, **{name: wrong}), f"{name} in {wrong}"
    assert [plugin.get_output_data_types([half] * count), plugin.num_outputs] == [[half], 1]


def test_plugins_are_told_apart_by_name_alone() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    assert PLUGIN_NAMES == ("MixerConvolution", "MixerScan", "MixerGate", "NmsKeep", "RoiAlignAdaptive")
    for name in PLUGIN_NAMES:
        plugin = plugin_of(trt, name)
        assert (plugin.plugin_name, plugin.plugin_namespace, plugin.plugin_version) == (name, "rs4d", "1")
        assert len(plugin.get_fields_to_serialize()) == 0


def test_another_plugin_of_that_name_is_an_error() -> None:
    names = ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime", "IPluginCreatorV3One")
    taken: list[str] = []

    def register(creator: Any, namespace: str) -> bool:
        taken.append(f"{namespace}::{creator.name}")
        return len(taken) < 2

    trt = SimpleNamespace(
        __name__="tensorrt_stub",
        DataType=SimpleNamespace(FLOAT=0, HALF=1, BF16=2),
        PluginFieldCollection=list,
        get_plugin_registry=lambda: SimpleNamespace(register_creator=register),
        **{name: type(name, (), {}) for name in names},
    )
    with pytest.raises(RuntimeFailure, match=r"tensorrt_stub does not take the plugin rs4d::MixerScan 1: another one"):
        tensorrt_plugins.register_plugins(trt)
    assert taken == ["rs4d::MixerConvolution", "rs4d::MixerScan"]
