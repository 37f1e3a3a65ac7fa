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
from rs4d_edge.export.graph import example_inputs, fit_model, only_outputs, save_graph, translate_module
from rs4d_edge.export.mixer_function import MIXER_INPUTS, MIXER_OP
from rs4d_edge.export.scan_function import SCAN_DOMAIN, SCAN_OP
from rs4d_edge.reference.config import EncoderConfig, HeadType, PathType
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.mixer import Mixer


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
    assert "backbone.layers.0/MixerCore" in nodes and "backbone.layers.1.out_proj/MatMul" in nodes
    held = {initializer.name for initializer in translated.graph.initializer}
    assert {"backbone.pos_embed", "backbone.layers.0.out_proj/MatMul:in1"} <= held


def test_a_layer_is_five_nodes(translated: ModelProto) -> None:
    operators = [node.op_type for node in translated.graph.node]
    mixers = [index for index, operator in enumerate(operators) if operator == MIXER_OP]
    assert len(mixers) == 2
    for index in mixers:
        assert operators[index - 2 : index + 3] == ["LayerNormalization", "MatMul", MIXER_OP, "MatMul", "Add"]
    assert [function.name for function in translated.functions] == [SCAN_OP, MIXER_OP]


def test_weights_of_the_mixer_core_are_constants(detector: RS4D, translated: ModelProto) -> None:
    held = {each.name: onnx.numpy_helper.to_array(each) for each in translated.graph.initializer}
    node = next(node for node in translated.graph.node if node.name == "backbone.layers.1/MixerCore")
    values = {name: held[given] for name, given in zip(MIXER_INPUTS[1:], node.input[1:], strict=True)}
    state = {name: value.numpy() for name, value in detector.backbone.layers[1].state_dict().items()}
    assert values["conv_weight"].shape == (32, 4)
    np.testing.assert_array_equal(values["conv_weight"], state["conv1d.weight"][:, 0])
    np.testing.assert_array_equal(values["x_proj"], state["x_proj.weight"])
    np.testing.assert_allclose(values["a"], -np.exp(state["A_log"]), rtol=1e-6)


class Gated(torch.nn.Module):
    """A mixer of the path that weighs its directions, on tokens made of pixels."""

    def __init__(self) -> None:
        super().__init__()
        config = EncoderConfig(
            channels=8,
            depth=1,
            inner_channels=16,
            state_size=4,
            path=PathType.FORWARD_REVERSE_GATE,
            image_size_hw=(16, 16),
        )
        self.mixer = Mixer(config)
        self.gate = torch.nn.Sequential(torch.nn.Linear(16, 2, bias=False), torch.nn.Softmax(dim=-1))

    def forward(self, frame: torch.Tensor, valid_hw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, rows, columns, 3) to (B, rows, 8), a row being a token."""
        tokens = frame.float().flatten(2)[:, :, :8] / 255
        return self.mixer(tokens, self.gate), valid_hw + 0


def test_other_paths_keep_the_scan_s_own_node() -> None:
    model = translate_module(Gated().eval(), example_inputs((16, 16), 1), "ab")
    own = [node.op_type for node in model.graph.node if node.domain == SCAN_DOMAIN]
    assert own == [SCAN_OP, SCAN_OP]
    assert [function.name for function in model.functions] == [SCAN_OP]


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
