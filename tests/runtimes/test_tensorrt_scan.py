"""The TensorRT plugin's own part: its identity, its workspace, and what it launches, on the emulated device."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rs4d_edge.native.cuda_launch import plan_scan
from rs4d_edge.native.library import ScanShape
from rs4d_edge.reference.scan import selective_scan_reference
from rs4d_edge.runtimes import tensorrt_scan
from rs4d_edge.runtimes.tensorrt_scan import PLUGIN_NAME, PLUGIN_NAMESPACE, PLUGIN_VERSION, workspace_bytes
from tests.native.cuda_emulation import Emulation
from tests.native.test_cuda_scan import direction, make_inputs


@pytest.mark.parametrize("shape", [(1, 24, 32, 4), (1, 1600, 256, 8), (2, 1000, 100, 16), (1, 4096, 512, 16)])
@pytest.mark.parametrize("multiprocessors", [1, 4, 8, 16, 46, 84, 128, 170])
def test_the_workspace_is_enough_on_every_gpu(shape: tuple[int, int, int, int], multiprocessors: int) -> None:
    plan = plan_scan(ScanShape(*shape), 1, multiprocessors)
    assert 4 * plan.carry_floats <= workspace_bytes(ScanShape(*shape)) < 8 << 20


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulation]:
    emulation = Emulation()
    emulation.reset()
    monkeypatch.setattr(tensorrt_scan, "_kernels", lambda: emulation.scan.kernels)
    yield emulation
    emulation.reset()


def _plugin(trt: Any, reverse: bool) -> Any:
    """As the parser makes it: by the registry's creator, from a node's attributes."""
    tensorrt_scan.register_scan_plugin(trt)
    tensorrt_scan.register_scan_plugin(trt)  # a second time is no error
    creator = trt.get_plugin_registry().get_creator(PLUGIN_NAME, PLUGIN_VERSION, PLUGIN_NAMESPACE)
    field = trt.PluginField("reverse", np.array([int(reverse)], dtype=np.int32), trt.PluginFieldType.INT32)
    return creator.create_plugin("scan", trt.PluginFieldCollection([field]), trt.TensorRTPhase.BUILD)


@pytest.mark.parametrize(("dtype", "kind", "rounding"), [(torch.float32, "FLOAT", 1e-6), (torch.float16, "HALF", 1e-3)])
@pytest.mark.parametrize("reverse", [False, True])
def test_enqueue_computes_the_scan(
    emulated: Emulation, reverse: bool, dtype: torch.dtype, kind: str, rounding: float
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    inputs = direction(make_inputs(2, 300, 40, 8, dtype), 0)
    kinds = [trt.DataType.FLOAT if x.dtype == torch.float32 else getattr(trt.DataType, kind) for x in inputs]
    tensors = [SimpleNamespace(dims=tuple(x.shape), type=each) for x, each in zip(inputs, kinds, strict=True)]
    y = torch.empty_like(inputs[0])
    workspace = torch.empty(workspace_bytes(ScanShape(2, 300, 40, 8)) // 4)
    plugin = _plugin(trt, reverse).clone()
    plugin.enqueue(tensors, tensors[:1], [x.data_ptr() for x in inputs], [y.data_ptr()], workspace.data_ptr(), 0)
    expected = selective_scan_reference(*(x.double() for x in inputs), reverse=reverse)
    assert float((y.double() - expected).abs().max() / expected.abs().max()) <= rounding


def test_the_direction_goes_through_a_serialized_engine() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    for reverse in (False, True):
        fields = _plugin(trt, reverse).get_fields_to_serialize()
        creator = trt.get_plugin_registry().get_creator(PLUGIN_NAME, PLUGIN_VERSION, PLUGIN_NAMESPACE)
        assert creator.create_plugin("scan", fields, trt.TensorRTPhase.RUNTIME).reverse is reverse


def test_types_that_go_together_are_taken() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    plugin = _plugin(trt, False)
    float32, half, int8 = trt.DataType.FLOAT, trt.DataType.HALF, trt.DataType.INT8

    def taken(*types: Any, layout: Any = trt.TensorFormat.LINEAR) -> bool:
        tensors = [SimpleNamespace(desc=SimpleNamespace(type=each, format=layout)) for each in types]
        return all(plugin.supports_format_combination(place, tensors, 6) for place in range(len(types)))

    assert taken(*[float32] * 7)
    assert taken(half, half, float32, half, half, float32, half)
    assert not taken(half, half, half, half, half, float32, half)  # a in fp16
    assert not taken(half, half, float32, half, half, float32, float32)  # another type out than in
    assert not taken(int8, int8, float32, int8, int8, float32, int8)
    assert not taken(*[float32] * 7, layout=trt.TensorFormat.HWC8)
