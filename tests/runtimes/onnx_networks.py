"""Networks of one node that take an image, or something that is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

OPSET, IR = 17, 8
Input = tuple[str, int, Sequence[int | str]]


def write_network(path: Path, *inputs: Input) -> Path:
    """Gives back what it is fed."""
    names = [name for name, _, _ in inputs]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in names]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(f"{name}_out", kind, shape) for name, kind, shape in inputs],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR), str(path))
    return path


def image(shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> Input:
    """One input of that shape."""
    return "images", kind, shape
