"""The translated graph: its interface, its names, and that it stands alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto

from rs4d_edge.contract import INPUT_NAMES, OUTPUT_NAMES
from rs4d_edge.errors import ExportError, InputError
from rs4d_edge.export.graph import example_inputs, fit_model, only_outputs, save_graph
from rs4d_edge.reference.config import HeadType
from rs4d_edge.reference.detector import RS4D


def test_inputs_outputs_and_shapes_are_the_contracts(detector: RS4D, translated: ModelProto) -> None:
    graph = only_outputs(translated).graph
    shapes = {
        value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.output)
    }
    assert tuple(value.name for value in graph.input) == INPUT_NAMES
    assert tuple(value.name for value in graph.output) == OUTPUT_NAMES
    assert shapes == detector.contract.input_shapes | detector.contract.output_shapes


def test_all_intermediate_results_are_outputs_in_order(detector: RS4D, translated: ModelProto) -> None:
    with torch.inference_mode():
        names = list(detector.features(*example_inputs(detector.contract.image_size_hw, 1)))
    assert [value.name for value in translated.graph.output] == names


def test_names_tell_the_module(translated: ModelProto) -> None:
    nodes = [node.name for node in translated.graph.node]
    assert len(nodes) == len(set(nodes))
    assert "backbone.layers.0/SelectiveScan" in nodes and "backbone.layers.1.out_proj/MatMul" in nodes
    held = {initializer.name for initializer in translated.graph.initializer}
    assert {"backbone.pos_embed", "backbone.layers.0.out_proj/MatMul:in1"} <= held


def test_no_note_of_the_exporter_remains(translated: ModelProto) -> None:
    text = only_outputs(translated).SerializeToString()
    assert b"stack_trace" not in text and b".py" not in text
    assert translated.producer_name == "rs4d-edge"
    assert [entry.key for entry in translated.metadata_props] == ["rs4d_edge_version"]


def test_constants_are_folded(translated: ModelProto) -> None:
    operators = {node.op_type for node in translated.graph.node}
    assert not operators & {"BatchNormalization", "Range", "ConstantOfShape", "Neg"}, (
        "A, anchors and norms are constants"
    )


def test_pruned_graph_is_smaller_and_valid(translated: ModelProto, tmp_path: Path) -> None:
    pruned = only_outputs(translated, ["encoder.0"])
    assert len(pruned.graph.node) < len(translated.graph.node) / 2
    path = save_graph(pruned, tmp_path / "part.onnx")
    assert list(tmp_path.iterdir()) == [path]
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_an_invalid_graph_is_not_written(translated: ModelProto, tmp_path: Path) -> None:
    broken = only_outputs(translated)
    del broken.graph.node[0]
    with pytest.raises(ExportError, match="not valid ONNX"):
        save_graph(broken, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("head", HeadType)
def test_fitted_model_gives_what_resizing_on_the_fly_gives(
    make_detector: Callable[[HeadType], RS4D], head: HeadType
) -> None:
    model, size_hw = make_detector(head), (96, 64)
    fitted = fit_model(model, size_hw)
    assert fitted.contract.image_size_hw == size_hw
    image = torch.rand(1, 3, *size_hw)
    with torch.inference_mode():
        expected, found = model.backbone(image), fitted.backbone(image)
    np.testing.assert_allclose(found.layers[-1].numpy(), expected.layers[-1].numpy(), rtol=1e-5, atol=1e-6)
    own = {name: value for name, value in fitted.state_dict().items() if not name.endswith("pos_embed")}
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in own.items())


def test_fitting_leaves_the_model_alone_and_refuses_impossible_sizes(detector: RS4D) -> None:
    assert fit_model(detector, detector.contract.image_size_hw) is not detector
    with pytest.raises(InputError, match=r"\(65, 96\)"):
        fit_model(detector, (65, 96))
