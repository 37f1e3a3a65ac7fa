from __future__ import annotations

import pytest

from rs4d_edge.layer_times import (
    GROUPS,
    LARGE_BYTES,
    NodeTime,
    by_group,
    by_kind,
    group_of,
    large_moves,
    middle_mean,
    place,
    placed_by_order,
)


def node(name: str, kind: str = "Add", ms: float = 1.0, outer: str | None = None) -> NodeTime:
    return NodeTime(name, kind, ms, outer=outer)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("backbone.stem.stride4.0.1/Conv/WithoutBiases", "stem"),
        ("stem.0_nchwc", "stem"),
        ("backbone.patch_embed.projection/Conv_nchwc", "patch embedding"),
        ("backbone.pre_norm/LayerNormalization_3", "encoder: norm"),
        ("backbone.ln1/LayerNormalization", "encoder: norm"),
        ("backbone.layers.11.in_proj/MatMul", "encoder: in_proj"),
        ("backbone.layers.3/SelectiveScan_1", "encoder: mixer core"),
        ("backbone.layers.3.dt_proj/Add", "encoder: mixer core"),
        ("backbone.gate_layers.3.0/MatMul", "encoder: mixer core"),
        ("backbone.layers.3.out_proj/MatMul", "encoder: out_proj"),
        ("backbone/Add_4", "encoder: residual, position"),
        ("encoder.3", "encoder: residual, position"),
        ("neck.outputs.0.1/Conv", "neck"),
        ("neck/Resize", "neck"),
        ("rpn_head.rpn_conv/Conv_1", "rpn"),
        ("rpn_cls.2", "rpn"),
        ("roi_head.bbox_head.shared_fcs.0/Gemm", "box head"),
        ("fused roi_head.bbox_head.shared_fcs.0/Gemm", "box head"),
        ("roi_head.mask_head.convs.0.conv/Conv", "mask head"),
        ("masks", "mask head"),
        ("mask_rows/filled", "mask head"),
        ("boxes", "detections: selection, NMS"),
        ("labels.0", "detections: selection, NMS"),
        ("some.module/Add", "other"),
        ("graph/TopK", None),
        ("MVN_301", None),
        ("/QuickGeluFusion/_token_218", None),
    ],
)
def test_names_tell_the_group(name: str, group: str | None) -> None:
    assert group_of(node(name)) == group
    assert group is None or group in GROUPS


def test_the_operator_tells_where_the_name_does_not() -> None:
    assert (
        group_of(node("graph/RoiAlign_3", "ROIAlign")) == group_of(node("graph/RoiAlign_3", "RoiAlign")) == "RoIAlign"
    )


def test_a_node_of_an_inner_graph_belongs_to_the_outermost_around_it() -> None:
    assert group_of(node("Mul_4", outer="roi_head.mask_head/If")) == "mask head"
    assert group_of(node("backbone.ln1/Add", outer="graph/Loop")) is None


def test_nameless_nodes_go_with_their_neighbours() -> None:
    run = [
        ("graph/Where", "normalise"),
        ("backbone.layers.0.in_proj/MatMul", "encoder: in_proj"),
        ("graph/Split", "encoder: mixer core"),
        ("Transpose_12", "encoder: mixer core"),
        ("backbone.layers.0.out_proj/MatMul", "encoder: out_proj"),
        ("graph/Add", "encoder: residual, position"),
        ("neck/Add", "neck"),
        ("Reorder", "neck"),
        ("rpn_head.rpn_cls/Conv", "rpn"),
        ("graph/TopK", "proposals: selection, NMS"),
        ("foreign.module/Add", "other"),
        ("graph/Sub", "proposals: selection, NMS"),
        ("roi_head.bbox_head.fc_reg/Gemm", "box head"),
        ("graph/TopK_4", "detections: selection, NMS"),
        ("roi_head.mask_head/Relu", "mask head"),
        ("Sigmoid_14009", "mask head"),
    ]
    placed = place([node(name) for name, _ in run])
    assert [(each.name, group) for each, group, _ in placed] == run
    assert placed_by_order([node(name) for name, _ in run]) == pytest.approx(9 / 16)


def test_a_nameless_norm_of_the_encoder_is_a_norm() -> None:
    placed = place([node("backbone/Add"), node("MVN_301", "MVN"), node("neck/Add"), node("MVN_302", "MVN")])
    assert [group for _, group, _ in placed][1::2] == ["encoder: norm", "neck"]


def test_times_are_added_up_by_group_and_by_kind() -> None:
    nodes = [node("neck/Add", "Add", 2.0), node("backbone/Add", "Add", 1.0), node("neck/Resize", "Resize", 4.0)]
    assert [tuple(share) for share in by_group(nodes)] == [("encoder: residual, position", 1.0, 1), ("neck", 6.0, 2)]
    assert [tuple(share) for share in by_kind(nodes)] == [("Resize", 4.0, 1), ("Add", 3.0, 2)]
    assert placed_by_order([]) == 0.0


def test_large_tensors_that_are_only_moved_are_listed_by_layer() -> None:
    large = (1, LARGE_BYTES // 4)
    nodes = [
        NodeTime("backbone.layers.0/Transpose_1", "Transpose", 1.0, large, 4),
        NodeTime("backbone.layers.7/Transpose", "Transpose", 2.0, large, 4),
        NodeTime("neck/Cast", "Cast", 5.0, large, 4),
        NodeTime("neck/Conv", "Conv", 9.0, large, 4),
        NodeTime("neck/Small", "Transpose", 9.0, (1, LARGE_BYTES // 4 - 1), 4),
    ]
    moves = large_moves(nodes)
    assert [(move.name, move.alike, move.ms, move.size_bytes) for move in moves] == [
        ("neck/Cast", 1, 5.0, LARGE_BYTES),
        ("backbone.layers.*/Transpose", 2, 3.0, LARGE_BYTES),
    ]


def test_the_mean_leaves_the_fastest_and_slowest_runs_out_and_keeps_loop_rounds_apart() -> None:
    runs = [[node("Mul_1", ms=ms), node("Mul_1", ms=2 * ms)] for ms in (100.0, 3.0, 1.0, 5.0)]
    assert [each.ms for each in middle_mean(runs)] == [4.0, 8.0]
    assert [each.ms for each in middle_mean(runs[:1])] == [100.0, 200.0]
