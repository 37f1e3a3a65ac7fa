"""Strongly typed fp16 graphs: where fp32 stays, what it saves from overflowing, and that engines take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import onnx.shape_inference
import pytest
import torch
from onnx import ModelProto, TensorProto
from onnx.reference import ReferenceEvaluator

from rs4d_edge.calibration.activation_ranges import measure_ranges
from rs4d_edge.calibration.fp32_islands import always_fp32, overflowing
from rs4d_edge.calibration.frames import scene_frames
from rs4d_edge.calibration.layer_tensors import tensors_of_layers
from rs4d_edge.calibration.qdq import insert_qdq
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.calibration.tensor_statistics import TensorStatistics
from rs4d_edge.errors import ExportError
from rs4d_edge.export.conditional_masks import loop_masks
from rs4d_edge.export.graph import only_outputs
from rs4d_edge.export.half_precision import to_half
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.runtimes.onnxruntime_runtime import OnnxRuntime
from tests.calibration import test_qdq
from tests.export.conftest import SIZE_HW

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
FEEDS = {"x": np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)}
# `b` is 10^6 times as large as `a`, and `c` small again. `offset` is read in both types.
TEXT = """
<ir_version: 10, opset_import: ["": 18]>
g (float[4,8] x) => (float[4,8] y, float[4,8] a)
<float[4,8] b, float[4,8] c, float[4,8] d>
{
  a = MatMul (x, weight)
  b = Mul (a, large)
  c = Mul (b, small)
  d = Relu (c)
  y = Add (d, offset)
}
"""


def make_model() -> ModelProto:
    model = onnx.parser.parse_model(TEXT)
    for node in model.graph.node:
        node.name = f"neck.{node.output[0]}"
    weight = np.random.default_rng(3).normal(size=(8, 8)).astype(np.float32)
    held: dict[str, npt.NDArray[np.float32]] = {"weight": weight}
    held |= {name: np.array(value, np.float32) for name, value in (("large", 1e4), ("small", 1e-4), ("offset", [0.5]))}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()
    )
    return model


def exactly(model: ModelProto, feeds: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    """The outputs with every operator in its own type: engines on a CPU compute fp16 in fp32."""
    with np.errstate(over="ignore", invalid="ignore"):
        results = ReferenceEvaluator(model).run(None, feeds)
    return list(results)


def check_types(model: ModelProto) -> dict[str, int]:
    """The checker's strict inference, and that no operator mixes types; answers with the types."""
    onnx.checker.check_model(model, full_check=True)
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    types |= {held.name: held.data_type for held in graph.initializer}
    for node in graph.node:
        own = [name for place, name in enumerate(node.input) if not (node.op_type == "Resize" and place in (1, 2))]
        read = {types[name] for name in own if types.get(name) in FLOATS}
        written = {types[name] for name in node.output if types.get(name) in FLOATS}
        assert len(read) <= 1, node.name
        assert node.op_type == "Cast" or len(read | written) <= 1, node.name
    return types


def test_a_planted_overflow_gets_its_island_and_no_other(tmp_path: Path) -> None:
    model = make_model()
    large = next(held for held in model.graph.initializer if held.name == "large")
    large.CopyFrom(onnx.numpy_helper.from_array(np.asarray(np.float32(6e4)), "large"))
    ranges = measure_ranges(model, [FEEDS], tmp_path)
    assert ranges["b"] > 65504 and ranges["a"] < 100
    islands = overflowing(model, ranges)
    assert [island.node for island in islands] == ["neck.b", "neck.c"]
    half = to_half(model, {island.node for island in islands})
    check_types(half)
    expected, found, without = (exactly(each, FEEDS)[0] for each in (model, half, to_half(model, ())))
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()
    assert not np.isfinite(without).all()


def test_types_names_and_casts() -> None:
    half = to_half(make_model(), {"neck.b", "neck.c"})
    types = check_types(half)
    assert {name for name, kind in types.items() if kind == TensorProto.FLOAT} == {
        *("x", "a", "b", "c", "y"),
        *("large", "small"),
    }
    casts = [(node.input[0], node.output[0]) for node in half.graph.node if node.op_type == "Cast"]
    assert casts == [("x", "x/fp16"), ("a/fp16", "a"), ("c", "c/fp16"), ("y/fp16", "y")]  # none between b and c
    assert [value.name for value in half.graph.output] == ["y", "a"]
    assert [node.name for node in half.graph.node if node.op_type != "Cast"] == [
        f"neck.{name}" for name in ("a", "b", "c", "d", "y")
    ]


def test_an_inner_graph_reads_fp32_from_outside() -> None:
    model = make_model()
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["a", "offset"], ["chosen"])],
        "body",
        [],
        [onnx.helper.make_tensor_value_info("chosen", TensorProto.FLOAT, (4, 8))],
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always"))
    branch = onnx.helper.make_node("If", ["always"], ["c"], name="neck.c", then_branch=body, else_branch=body)
    model.graph.node[2].CopyFrom(branch)
    half = to_half(model, {"neck.b"})
    check_types(half)
    assert [node.name for node in half.graph.node if node.op_type == "Cast"][:2] == ["x/fp16/Cast", "a/Cast"]
    expected, found = exactly(model, FEEDS)[0], exactly(half, FEEDS)[0]
    assert 0 < np.abs(found - expected).max() < 2e-3 * np.abs(expected).max()


def test_constants_of_both_parts_are_kept_twice_and_too_large_ones_are_refused() -> None:
    model = make_model()
    model.graph.node[1].input[1] = "weight"
    model.graph.initializer.remove(model.graph.initializer[1])
    model.graph.node[1].op_type = "MatMul"
    names = {held.name for held in to_half(model, {"neck.b"}).graph.initializer}
    assert names == {"weight", "weight/fp16", "small/fp16", "offset/fp16"}
    model = make_model()
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.asarray(np.float32(7e4)), "large"))
    with pytest.raises(ExportError, match=r"large of neck\.b reaches 7e\+04"):
        to_half(model, ())
    to_half(model, {"neck.b"})


@pytest.mark.parametrize("smallest", [1.0, 1e-6])
def test_quantized_nodes_go_along_unless_fp16_spoils_their_scales(smallest: float, tmp_path: Path) -> None:
    model = test_qdq.make_model()
    weights = next(held for held in model.graph.initializer if held.name == "wd")
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * np.float32(smallest), "wd"))
    channels = {"x": 3, "r": 6, "b": 4, "rows": 4, "matrix": 8}
    statistics = {
        name: TensorStatistics(3.0, True, np.ones(count, np.float32), np.zeros(count, np.float32))
        for name, count in channels.items()
    }
    layers = test_qdq.LAYERS
    assert set(tensors_of_layers(model, layers)) <= set(statistics)
    quantized = insert_qdq(model, layers, statistics, QuantizationSettings(signed=True))
    half = to_half(quantized, ())
    types = check_types(half)
    assert [opset.version for opset in half.opset_import] == [19]
    scales = {node.input[1] for node in half.graph.node if node.op_type == "DequantizeLinear"}
    in_fp32 = {name for name in scales if types[name] == TensorProto.FLOAT}
    assert in_fp32 == (set() if smallest == 1 else {"y/Gemm/weight/scale"})
    feeds = {"x": np.random.default_rng(5).normal(size=(1, 3, 8, 8)).astype(np.float32)}
    results = []
    for name, each in (("quantized", quantized), ("half", half)):
        onnx.save(each, tmp_path / f"{name}.onnx")
        runtime = OnnxRuntime(tmp_path / f"{name}.onnx", threads=1)
        results.append(runtime.run(feeds)["y"])
        runtime.close()
    assert np.abs(results[1] - results[0]).max() < 0.05 * np.abs(results[0]).max()  # a few values round to another step


def test_a_detector_in_fp16_keeps_boxes_and_scans_in_fp32(translated: ModelProto, tmp_path: Path) -> None:
    half = to_half(translated, always_fp32(translated))
    types = check_types(half)
    for value in half.graph.output:
        assert value.type.tensor_type.elem_type == (TensorProto.INT64 if value.name == "labels" else TensorProto.FLOAT)
    layers = [node for node in half.graph.node if node.op_type in ("Conv", "Gemm", "MatMul", "ConvTranspose")]
    assert len(layers) > 30
    assert {types[node.input[1]] for node in layers} == {TensorProto.FLOAT16}
    fixed = [node for node in half.graph.node if node.op_type in ("MixerCore", "RoiAlign", "NonMaxSuppression")]
    assert fixed and {types[name] for node in fixed for name in node.input if types[name] in FLOATS} == {
        TensorProto.FLOAT
    }
    graphs = {"float": only_outputs(translated), "half": only_outputs(loop_masks(half))}
    feeds: dict[str, Any] = {"frame": scene_frames(1, SIZE_HW)[0][None], "valid_hw": np.array([SIZE_HW])}
    scores = []
    for name, graph in graphs.items():
        onnx.checker.check_model(graph, full_check=True)
        onnx.save(graph, tmp_path / f"{name}.onnx")
        runtime = OnnxRuntime(tmp_path / f"{name}.onnx", threads=1, native_scan=False)
        scores.append(runtime.run(feeds)["scores"])
        runtime.close()
    assert scores[0].max() > 0.1 and 0 < np.abs(scores[1] - scores[0]).max() < 0.02
    assert graphs["half"].ByteSize() < 0.75 * graphs["float"].ByteSize()


def test_ranges_are_what_the_modules_answer_with(translated: ModelProto, detector: RS4D, tmp_path: Path) -> None:
    modules = dict(detector.named_modules())
    watched = {
        "backbone.stem.stride4.0": "backbone.stem.stride4.0.2/Relu",
        "backbone.layers.1.in_proj": "backbone.layers.1.in_proj/MatMul",
        "backbone.ln1": "backbone.ln1/LayerNormalization",
        "roi_head.bbox_head.fc_cls": "class_logits",
    }
    seen: dict[str, float] = {}
    hooks = [
        modules[module].register_forward_hook(
            lambda _, __, value, name=name: seen.__setitem__(name, max(seen.get(name, 0.0), float(value.abs().max())))
        )
        for module, name in watched.items()
    ]
    feeds = [{"frame": frame[None], "valid_hw": np.array([SIZE_HW])} for frame in scene_frames(2, SIZE_HW)[:1] * 2]
    feeds[1]["frame"] = feeds[1]["frame"][:, ::-1].copy()
    with torch.inference_mode():
        for each in feeds:
            detector(*(torch.from_numpy(value) for value in each.values()))
    for hook in hooks:
        hook.remove()
    found = measure_ranges(translated, feeds, tmp_path, threads=1)
    assert {name: found[name] for name in watched.values()} == pytest.approx(seen, rel=1e-3)
