"""Which nodes keep fp32, by their names and by what was measured."""

from __future__ import annotations

import onnx.helper
import pytest
from onnx import ModelProto, TensorProto

from rs4d_edge.calibration.fp32_islands import LARGEST_HALF, LIMIT, always_fp32, overflowing
from rs4d_edge.errors import ExportError


def chain(*names: str, weight: float = 1.0) -> ModelProto:
    """Products one after another, t0 -> t1 -> ..., each with the constant `w`."""
    nodes = [onnx.helper.make_node("Mul", [f"t{i}", "w"], [f"t{i + 1}"], name=name) for i, name in enumerate(names)]
    held = onnx.helper.make_tensor("w", TensorProto.FLOAT, [1], [weight])
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], [held]))


@pytest.mark.parametrize(
    ("name", "always"),
    [
        ("backbone.layers.3/MixerCore", True),
        ("backbone.layers.3.x_proj/MatMul", True),
        ("graph/Exp_4", True),
        ("mask_rows/neck.0/planes", True),
        ("shared_image_embedding/Sin", True),
        ("backbone.layers.3.in_proj/MatMul", False),
        ("roi_head.mask_head.convs.0.conv/Conv", False),
        ("neck.outputs.0.1/Conv", False),
    ],
)
def test_what_is_always_in_fp32(name: str, always: bool) -> None:
    assert always_fp32(chain(name)) == ({name} if always else set())


def test_a_large_tensor_keeps_its_writer_and_its_readers_in_fp32() -> None:
    model = chain("neck.a", "neck.b", "neck.c", "neck.d")
    found = overflowing(model, {"t1": 3.0, "t2": 1.01 * LIMIT, "t3": 0.99 * LIMIT, "t4": 1.0})
    assert [(island.node, island.tensor) for island in found] == [("neck.b", "t2"), ("neck.c", "t2")]
    assert {island.largest for island in found} == {1.01 * LIMIT}
    assert LIMIT < LARGEST_HALF / 2  # room for frames that were not seen
    assert overflowing(model, {"t2": 1.01 * LIMIT}, limit=LARGEST_HALF) == []


def test_what_is_always_in_fp32_is_not_listed_and_may_be_infinite() -> None:
    assert overflowing(chain("graph/Mul"), {"t1": float("inf")}) == []
    with pytest.raises(ExportError, match="'t1' takes infinite values"):
        overflowing(chain("neck.a"), {"t1": float("inf")})


def test_constants_may_reach_the_largest_number_and_no_more() -> None:
    assert overflowing(chain("neck.a", weight=-LARGEST_HALF), {}) == []
    found = overflowing(chain("neck.a", weight=-1e5), {})
    assert [(island.node, island.tensor, island.largest) for island in found] == [("neck.a", "w", 1e5)]
