"""Which layers may become int8."""

from __future__ import annotations

import onnx.helper
import pytest

from rs4d_edge.calibration.layers import high_precision_group, names_read, quantizable_layers, weighted_layers


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("backbone.layers.3/MixerCore", "scan and mixer core"),
        ("backbone.layers.12.x_proj/MatMul", "scan and mixer core"),
        ("backbone.layers.0.dt_proj/MatMul", "scan and mixer core"),
        ("backbone.layers.0.conv1d/Conv", "scan and mixer core"),
        ("backbone.gate_layers.0.0/MatMul", "scan and mixer core"),
        ("backbone.layers.0.in_proj/MatMul", None),
        ("backbone.layers.0.out_proj/MatMul", None),
        ("roi_head.mask_head.convs.0.0/Conv", "mask head"),
        ("mask_rows/neck.0/planes", "mask head"),
        ("roi_head.bbox_head.shared_fcs.0/Gemm", None),
        ("neck.lateral8.1/Conv", None),
    ],
)
def test_what_stays_in_high_precision(name: str, group: str | None) -> None:
    assert high_precision_group(name) == group


def test_layers_are_nodes_with_constant_weights() -> None:
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [2, 2], [1, 2, 3, 4])
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="neck.a/MatMul"),
        onnx.helper.make_node("MatMul", ["y", "y"], ["z"], name="neck.b/MatMul"),
        onnx.helper.make_node("MatMul", ["z", "w"], ["q"]),
        onnx.helper.make_node("MatMul", ["q", "w"], ["r"], name="backbone.layers.0.x_proj/MatMul"),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [], [weight])
    model = onnx.helper.make_model(graph)
    assert weighted_layers(model) == ["neck.a/MatMul", "backbone.layers.0.x_proj/MatMul"]
    assert quantizable_layers(model) == ["neck.a/MatMul"]
    assert quantizable_layers(model, without=["neck.a/MatMul"]) == []


def test_what_an_inner_graph_reads_counts() -> None:
    inner = onnx.helper.make_graph([onnx.helper.make_node("Add", ["outside", "inside"], ["sum"])], "body", [], [])
    loop = onnx.helper.make_node("Loop", ["count", "", "start"], ["end"], body=inner)
    assert names_read([loop]) == {"count", "", "start", "outside", "inside"}
