"""TensorRT's plugins for NMS and RoIAlign: types, shapes and workspace, and what they launch, emulated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rs4d_edge.reference.nms import nms_keep_reference
from rs4d_edge.reference.roi_align import roi_align_reference
from rs4d_edge.runtimes.tensorrt_operator import Operator
from rs4d_edge.runtimes.tensorrt_selection_operators import SELECTION_OPERATORS
from tests.native.cuda_emulation import Emulation
from tests.native.test_cuda_roi_align import boxes
from tests.native.test_cuda_selection import crowd
from tests.runtimes.test_tensorrt_plugins import emulated, enqueued, plugin_of

__all__ = ["emulated"]  # the fixture
NMS, ROI_ALIGN = SELECTION_OPERATORS


@pytest.mark.parametrize("most", [4, 100])
def test_nms_through_a_plugin_is_the_reference_s(emulated: Emulation, most: int) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    placed, scores = crowd(1, 3, 70)
    thresholds = torch.tensor([[0.3], [0.05]])
    inputs = (placed, scores[:, None], torch.tensor([most], dtype=torch.int32), *thresholds)
    found = enqueued(trt, NMS, "FLOAT", inputs)
    assert torch.equal(found, nms_keep_reference(placed, scores, 0.3, 0.05, most).int())


@pytest.mark.parametrize(("dtype", "kind"), [(torch.float32, "FLOAT"), (torch.float16, "HALF")])
def test_roi_align_through_a_plugin_is_the_reference_s(emulated: Emulation, dtype: torch.dtype, kind: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    feature = torch.randn(2, 3, 9, 14, generator=torch.Generator().manual_seed(0)).to(dtype)
    rois = boxes(16, (14 * 8, 9 * 8))
    found = enqueued(trt, ROI_ALIGN, kind, (feature, rois, torch.tensor([0.125]), torch.arange(5.0), torch.arange(9.0)))
    expected = roi_align_reference(feature.float(), rois, torch.arange(2).repeat_interleave(8), 5, 0.125)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=2e-5 if dtype == torch.float32 else 2.0**-9, rtol=2.0**-10)


def test_the_workspace_has_a_bit_for_each_pair_of_a_group() -> None:
    assert NMS.workspace_bytes([(80, 1000, 4)]) == 80 * 1000 * 32 * 4
    assert NMS.workspace_bytes([(2, 33, 4)]) == 2 * 33 * 2 * 4
    assert ROI_ALIGN.workspace_bytes([(1, 256, 200, 336)]) == 0


@pytest.mark.parametrize("operator", SELECTION_OPERATORS, ids=lambda operator: operator.name)
def test_types_that_go_together_are_taken(operator: Operator) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    plugin, count = plugin_of(trt, operator.name), len(operator.inputs)
    types = trt.DataType

    def taken(first: Any, *, layout: Any = trt.TensorFormat.LINEAR, **other: Any) -> bool:
        kinds = dict.fromkeys((*operator.inputs, "out"), types.FLOAT)
        kinds |= {operator.inputs[0]: first, "out": types.INT32 if operator is NMS else first}
        kinds |= {"most": types.INT32} if operator is NMS else {}
        tensors = [SimpleNamespace(desc=SimpleNamespace(type=each, format=layout)) for each in (kinds | other).values()]
        return all(plugin.supports_format_combination(place, tensors, count) for place in range(count + 1))

    assert taken(types.FLOAT) and not taken(types.FLOAT, layout=trt.TensorFormat.HWC8)
    assert [taken(each) for each in (types.HALF, types.BF16, types.INT8)] == [operator is not NMS] * 2 + [False]
    assert not taken(types.FLOAT, out=types.HALF) and not taken(types.FLOAT, out=types.BOOL)
    for name in operator.inputs[1:]:
        assert not taken(types.FLOAT, **{name: types.HALF}), name
    assert not any(taken(types.FLOAT, most=each) for each in (types.INT64, types.FLOAT) if operator is NMS)
    expected = types.INT32 if operator is NMS else types.HALF
    assert [plugin.get_output_data_types([types.HALF] * count), plugin.num_outputs] == [[expected], 1]
