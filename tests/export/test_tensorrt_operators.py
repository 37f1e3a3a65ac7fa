"""NMS and RoIAlign in TensorRT's operators give what the reference gives, through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx.helper
import onnxruntime
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto
from onnx.helper import make_node, make_tensor_value_info
from torch import Tensor

from rs4d_edge.errors import ExportError
from rs4d_edge.export.scan_function import OPSET
from rs4d_edge.export.tensorrt_graph import tensorrt_graph
from rs4d_edge.export.tensorrt_nms import nms_nodes
from rs4d_edge.reference.nms import nms_keep, nms_keep_reference
from rs4d_edge.reference.roi_align import roi_align, roi_align_reference

_FLOAT, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def _model(nodes: list[NodeProto], inputs: Mapping[str, Tensor], output: tuple[str, int, list[int]]) -> ModelProto:
    kinds = {torch.float32: _FLOAT, torch.int64: _INT64}
    values = [make_tensor_value_info(name, kinds[x.dtype], list(x.shape)) for name, x in inputs.items()]
    graph = onnx.helper.make_graph(nodes, "g", values, [make_tensor_value_info(*output)])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10)


def _run(model: ModelProto, inputs: Mapping[str, Tensor]) -> Any:
    rewritten = tensorrt_graph(model)
    left = {node.op_type for node in rewritten.graph.node}
    assert not left & {"NonMaxSuppression", "RoiAlign", "ScatterND"} and not rewritten.functions
    session = onnxruntime.InferenceSession(rewritten.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {each.name: inputs[each.name].numpy() for each in session.get_inputs()})[0]


def nms_model(boxes: Tensor, scores: Tensor, iou: float, score: float, most: int) -> ModelProto:
    """As `rs4d_edge.export.translations.nms_keep` writes it."""
    groups, count = scores.shape

    def constant(name: str, kind: int, values: list[Any], dims: list[int]) -> NodeProto:
        return make_node("Constant", [], [name], name=name, value=onnx.helper.make_tensor(name, kind, dims, values))

    nodes = [
        constant("most", _INT64, [most], [1]),
        constant("iou", _FLOAT, [iou], [1]),
        constant("score", _FLOAT, [score], [1]),
        constant("one", _INT64, [1], [1]),
        constant("zero", _INT64, [0], [1]),
        constant("columns", _INT64, [0, 2], [2]),
        constant("nothing", _FLOAT, [0.0] * groups * count, [groups, count]),
        constant("true", _FLOAT, [1.0], []),
        make_node("Unsqueeze", ["scores", "one"], ["rows"], name="rows"),
        make_node("NonMaxSuppression", ["boxes", "rows", "most", "iou", "score"], ["found"], name="nms"),
        make_node("Gather", ["found", "columns"], ["places"], name="places", axis=1),
        make_node("Shape", ["places"], ["many"], name="many", end=1),
        make_node("Expand", ["true", "many"], ["ones"], name="ones"),
        make_node("ScatterND", ["nothing", "places", "ones"], ["filled"], name="filled"),
        make_node("Cast", ["filled"], ["keep"], name="keep", to=_BOOL),
    ]
    return _model(nodes, {"boxes": boxes, "scores": scores}, ("keep", _BOOL, [groups, count]))


def _boxes(seed: int, groups: int, count: int) -> Tensor:
    """Crowded, some without area, corners on whole pixels so that overlaps repeat."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 40, (groups, count, 2), generator=generator).float()
    return torch.cat((corner, corner + torch.randint(0, 25, (groups, count, 2), generator=generator)), dim=2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most", [5, 1000])
def test_nms_keeps_what_the_reference_keeps_with_ties(seed: int, most: int) -> None:
    boxes = _boxes(seed, 3, 70)
    scores = torch.randint(-2, 10, (3, 70), generator=torch.Generator().manual_seed(seed)).float() / 10
    found = _run(nms_model(boxes, scores, 0.3, 0.05, most), {"boxes": boxes, "scores": scores})
    expected = nms_keep_reference(boxes, scores, 0.3, 0.05, most)
    assert expected.any() and not expected.all()
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("backwards", [False, True])
def test_nms_follows_a_chain_through_all_boxes(backwards: bool) -> None:
    # Each box overlaps its neighbours alone, so that every second one survives, found only once all better ones are.
    left = torch.arange(90.0) * 4
    left = left.flip(0) if backwards else left
    boxes = torch.stack((left, torch.zeros(90), left + 8, torch.full((90,), 10.0)), dim=1)[None]
    scores = torch.linspace(0.9, 0.1, 90)[None]
    found = _run(nms_model(boxes, scores, 0.3, 0.0, 90), {"boxes": boxes, "scores": scores})
    assert found[0].tolist() == [True, False] * 45
    np.testing.assert_array_equal(found, nms_keep(boxes, scores, 0.3, 0.0, 90).numpy())


def test_another_use_of_nms_is_refused() -> None:
    model = nms_model(_boxes(0, 1, 4), torch.ones(1, 4), 0.5, 0.0, 4)
    del model.graph.node[-1]
    with pytest.raises(ExportError, match=r"filled: .*one Cast; found 0"):
        nms_nodes(model)


def roi_model(feature: Tensor, rois: Tensor, index: Tensor, size: int, scale: float) -> ModelProto:
    pooled = make_node(
        "RoiAlign",
        ["feature", "rois", "index"],
        ["pooled"],
        name="pool",
        output_height=size,
        output_width=size,
        sampling_ratio=0,
        spatial_scale=scale,
        mode="avg",
        coordinate_transformation_mode="half_pixel",
    )
    inputs = {"feature": feature, "rois": rois, "index": index}
    return _model([pooled], inputs, ("pooled", _FLOAT, [len(rois), feature.shape[1], size, size]))


@pytest.mark.parametrize(("size", "stride", "size_hw"), [(7, 8, (12, 20)), (14, 4, (24, 17)), (2, 16, (6, 10))])
def test_roi_align_gives_what_the_reference_gives(size: int, stride: int, size_hw: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(size)
    feature = torch.randn(2, 3, *size_hw, generator=generator)
    extent = torch.tensor([size_hw[1], size_hw[0]]) * float(stride)
    corners = torch.rand(40, 2, 2, generator=generator) * extent
    rois = torch.cat((corners.amin(dim=1), corners.amax(dim=1)), dim=1)
    rois[0], rois[20] = torch.tensor([0.0, 0.0, *extent]), torch.tensor([0.0, 0.0, *extent])  # the whole image
    rois[1], rois[21] = torch.zeros(4), torch.tensor([9.0, 3.0, 9.0, 30.0])  # no area
    rois[2] = torch.tensor([10.0, 5.0, 10.01, float(extent[1])])  # a hair's breadth
    rois[3] = torch.tensor([float(extent[0]) - 1, float(extent[1]) - 1, *extent])  # a corner
    index = torch.arange(2).repeat_interleave(20)
    inputs = {"feature": feature, "rois": rois, "index": index}
    found = _run(roi_model(feature, rois, index, size, 1 / stride), inputs)
    expected = roi_align_reference(feature, rois, index, size, 1 / stride)
    assert expected[0].abs().max() > 0 and not expected[[1, 21]].any()
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)
    np.testing.assert_allclose(found, roi_align(feature, rois, index, size, 1 / stride).numpy(), atol=2e-5)


def test_a_pool_of_another_kind_is_refused() -> None:
    model = roi_model(torch.zeros(1, 2, 8, 8), torch.zeros(3, 4), torch.zeros(3).long(), 7, 0.25)
    next(each for each in model.graph.node[0].attribute if each.name == "sampling_ratio").i = 2
    with pytest.raises(ExportError, match="pool: only square pools of means with adaptive sampling"):
        tensorrt_graph(model)


def test_frames_are_cast_ahead_of_everything_else() -> None:
    frame = torch.arange(24, dtype=torch.uint8).reshape(1, 2, 4, 3)
    nodes = [
        make_node("Transpose", ["frame"], ["planes"], name="turn", perm=[0, 3, 1, 2]),
        make_node("Cast", ["planes"], ["number"], name="cast", to=_FLOAT),
        make_node("Neg", ["number"], ["negative"], name="negative"),
    ]
    values = [make_tensor_value_info("frame", TensorProto.UINT8, [1, 2, 4, 3])]
    graph = onnx.helper.make_graph(nodes, "g", values, [make_tensor_value_info("negative", _FLOAT, [1, 3, 2, 4])])
    graph.value_info.append(make_tensor_value_info("planes", TensorProto.UINT8, [1, 3, 2, 4]))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10)
    assert [node.op_type for node in tensorrt_graph(model).graph.node] == ["Cast", "Transpose", "Neg"]
    np.testing.assert_array_equal(_run(model, {"frame": frame}), -frame.permute(0, 3, 1, 2).float().numpy())
