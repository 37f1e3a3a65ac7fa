"""NMS and RoIAlign as nodes for TensorRT's plugins: what they become, their bodies, and that no loop is left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor

from rs4d_edge.calibration.fp32_islands import always_fp32
from rs4d_edge.errors import ExportError
from rs4d_edge.export.half_precision import to_half
from rs4d_edge.export.recipes import ScanForm
from rs4d_edge.export.tensorrt_graph import tensorrt_graph
from rs4d_edge.export.tensorrt_mixer import split_mixers
from rs4d_edge.export.tensorrt_operators import check_operators
from rs4d_edge.reference.boxes import pairwise_iou
from rs4d_edge.reference.config import HeadType
from rs4d_edge.runtimes.tensorrt_selection_operators import SELECTION_OPERATORS
from tests.export.conftest import SIZE_HW, tiny_translation
from tests.export.test_tensorrt_operators import nms_model, roi_model
from tests.native.cuda_emulation import Emulation
from tests.native.test_cuda_roi_align import boxes
from tests.runtimes.test_tensorrt_plugins import launched

NMS, ROI_ALIGN = SELECTION_OPERATORS


def in_plugin_form(model: ModelProto, plugin: str) -> ModelProto:
    """The graph for plugins, with one node of ours, which says which plugin it is for."""
    made = tensorrt_graph(model, ScanForm.PLUGIN)
    onnx.checker.check_model(made, full_check=True)
    check_operators(made, plugins=True)
    (own,) = (node for node in made.graph.node if node.domain)
    said = {each.name: helper.get_attribute_value(each) for each in own.attribute}
    assert own.op_type == plugin and said == {"plugin_namespace": b"rs4d", "plugin_version": b"1"}
    return made


def run(model: ModelProto, inputs: Mapping[str, Tensor]) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {each.name: inputs[each.name].numpy() for each in session.get_inputs()})[0]


def constant(model: ModelProto, name: str) -> Tensor:
    """A constant of the graph, whichever way it is written."""
    held = {each.name: each for each in model.graph.initializer}
    held |= {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    return torch.from_numpy(numpy_helper.to_array(held[name]).copy())


def kernel(model: ModelProto, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the CUDA kernels give for the node of ours, from the inputs and the graph's constants."""
    emulation = Emulation()
    emulation.reset()
    (own,) = (node for node in model.graph.node if node.domain)
    operator = next(each for each in SELECTION_OPERATORS if each.name == own.op_type)
    tensors = [inputs[name] if name in inputs else constant(model, name) for name in own.input]
    return launched(emulation, operator, tensors)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("most", [7, 300])
def test_the_body_of_nms_keeps_the_very_boxes_that_the_kernel_keeps(seed: int, most: int) -> None:
    """Anywhere, so that IoUs are rounded, at a threshold that one of them has."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, 150, 2, generator=random) * 30
    placed = torch.cat((corner, corner + torch.rand(2, 150, 2, generator=random) * 20), dim=2)
    placed[:, 100:] = placed[:, :50]  # each of these twice
    scores = (torch.rand(2, 150, generator=random) * 40).floor() / 40
    model = in_plugin_form(nms_model(placed, scores, iou_of_a_pair(placed), 0.1, most), "NmsKeep")
    found, given = kernel(model, {"boxes": placed, "rows": scores[:, None]}), {"boxes": placed, "scores": scores}
    assert found.any() and not found.all() and ((found.sum(dim=1) == most).any() == (most == 7))
    np.testing.assert_array_equal(run(model, given), found.bool().numpy())
    assert constant(model, "keep/most").dtype == torch.int32


def iou_of_a_pair(placed: Tensor) -> float:
    """The IoU of two boxes, in fp32; half of those that overlap have a larger one."""
    iou = pairwise_iou(placed[0], placed[0])
    return float(iou[(iou > 0) & (iou < 1)].median())


def roi_inputs(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Two images' map, of numbers that fp16 has, and eight RoIs of each."""
    feature = torch.randn(2, 3, 9, 14, generator=torch.Generator().manual_seed(3)).half().to(dtype)
    rois = boxes(16, (112, 72))
    rois[5:7] = rois[8:10]  # RoIs are clipped to the image
    return {"feature": feature, "rois": rois, "index": torch.arange(2).repeat_interleave(8)}


def test_the_body_of_roi_align_gives_what_the_kernel_gives() -> None:
    given = roi_inputs()
    model = in_plugin_form(roi_model(**given, size=5, scale=0.125), "RoiAlignAdaptive")
    np.testing.assert_allclose(run(model, given), kernel(model, given).numpy(), rtol=0, atol=2e-6)


def test_a_map_in_fp16_is_pooled_as_it_is() -> None:
    """In fp32 again behind the pool, for what reads it is typed."""
    model = roi_model(**roi_inputs(), size=5, scale=0.125)
    model.graph.node.insert(0, helper.make_node("Neg", ["feature"], ["negative"], name="backbone/Neg"))
    model.graph.node[1].input[0], model.graph.node[1].name = "negative", "graph/RoiAlign"
    model.graph.value_info.append(helper.make_tensor_value_info("negative", TensorProto.FLOAT, [2, 3, 9, 14]))
    half = in_plugin_form(to_half(model, always_fp32(model)), "RoiAlignAdaptive")
    assert [node.op_type for node in half.graph.node] == ["Cast", "Neg", "RoiAlignAdaptive", "Cast"]
    assert half.graph.node[2].input[0] == "negative/fp16"
    exact, given = roi_inputs(), roi_inputs(torch.float16)
    found = run(half, exact)
    expected = kernel(half, {"negative/fp16": -given["feature"], "rois": exact["rois"]}).float().numpy()
    np.testing.assert_allclose(found, expected, rtol=2.0**-10, atol=2.0**-14)


def test_no_loop_is_left_in_graphs_for_plugins() -> None:
    """Nothing whose end, or whose size, depends on the data: TensorRT records such an engine into no CUDA graph.

    For all heads and precisions, `test_tensorrt_export` looks at the graphs of bundles.
    """
    graph = tensorrt_graph(split_mixers(tiny_translation(HeadType.BBOX, SIZE_HW)), ScanForm.PLUGIN).graph
    made = [node.op_type for node in graph.node]
    assert not {"Loop", "If", "Scan", "NonZero", "NonMaxSuppression"} & set(made)
    assert (made.count("NmsKeep"), made.count("RoiAlignAdaptive")) == (2, 6)
    assert not any(axis.dim_param for value in graph.value_info for axis in value.type.tensor_type.shape.dim)
    plain = tensorrt_graph(nms_model(torch.zeros(1, 5, 4), torch.zeros(1, 5), 0.5, 0.0, 5)).graph
    assert "Loop" in {node.op_type for node in plain.node}


def test_more_boxes_than_the_plugin_takes_are_refused() -> None:
    model = nms_model(torch.zeros(1, 4097, 4), torch.zeros(1, 4097), 0.5, 0.0, 5)
    with pytest.raises(ExportError, match=r"keep chooses among 4097 boxes.*at most 4096: use --scan plain"):
        tensorrt_graph(model, ScanForm.PLUGIN)


@pytest.mark.parametrize("plugin", ["NmsKeep", "RoiAlignAdaptive"])
def test_an_engine_is_built_of_each(plugin: str, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    from rs4d_edge.runtimes.tensorrt_build import build_engine
    from rs4d_edge.runtimes.tensorrt_host import host_of

    made: dict[str, Callable[[], ModelProto]] = {
        "NmsKeep": lambda: nms_model(torch.zeros(2, 50, 4), torch.zeros(2, 50), 0.5, 0.0, 5),
        "RoiAlignAdaptive": lambda: roi_model(**roi_inputs(), size=5, scale=0.125),
    }
    path = tmp_path / "model.onnx"
    onnx.save(in_plugin_form(made[plugin](), plugin), path)
    record = build_engine(path, tmp_path, "engine", host_of(trt, None, "8.6"))
    shapes = {"NmsKeep": ((2, 50), "bool"), "RoiAlignAdaptive": ((16, 3, 5, 5), "float32")}
    assert (record.outputs[0].shape, record.outputs[0].dtype) == shapes[plugin]
    assert f"rs4d::{plugin}" in record.plugins
