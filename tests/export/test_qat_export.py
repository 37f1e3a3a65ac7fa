"""What learns with rounding is what the export quantizes, rounded to the same numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import ModelProto
from torch import nn

from rs4d_edge.calibration.calibration_set import CalibrationSet
from rs4d_edge.calibration.frames import prepare, scene_frames
from rs4d_edge.calibration.layer_tensors import tensors_of_layers
from rs4d_edge.calibration.layers import EXACT_RESULTS, quantizable_layers
from rs4d_edge.calibration.qdq import insert_qdq
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.calibration.tensor_statistics import TensorStatistics
from rs4d_edge.calibration.trained_ranges import (
    RANGES_KEY,
    RESULT,
    TrainedRange,
    ranges_as_text,
    ranges_of_tensors,
    read_ranges,
    with_trained_ranges,
)
from rs4d_edge.errors import CheckpointError
from rs4d_edge.export.graph import translate
from rs4d_edge.export.quantized_model import CalibrationRuns
from rs4d_edge.export.recipes import Precision, Recipe, Target
from rs4d_edge.reference.config import DetectorConfig, HeadType, NeckConfig, NeckType, PathType
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.runtimes.onnxruntime_runtime import OnnxRuntime
from rs4d_edge.training.qat_layers import install, rounded_layers
from rs4d_edge.training.qat_rounding import RoundedTensors
from tests.export.conftest import SIZE_HW, tiny_config

# Before one value on the middle between two steps that went another way has reached all tokens.
FEATURES = ("stem.0", "stem.1", "encoder.0", "neck.0", "neck.2")
PLAIN = QuantizationSettings(smooth_projections=False, correct_biases=False)


def feeds() -> list[dict[str, npt.NDArray[Any]]]:
    return [each.feeds for each in prepare(scene_frames(4, SIZE_HW), SIZE_HW)]


def tensors_of(inputs: dict[str, npt.NDArray[Any]]) -> list[torch.Tensor]:
    return [torch.from_numpy(inputs[name]) for name in ("frame", "valid_hw")]


@torch.no_grad()
def measured(model: RS4D) -> RoundedTensors:
    """The model made to round, with ranges of drawn scenes."""
    tensors = RoundedTensors()
    install(model, tensors)
    tensors.observe()
    for inputs in feeds():
        model(*tensors_of(inputs))
    tensors.settle()
    return tensors


@torch.no_grad()
def features_of(model: RS4D) -> list[dict[str, npt.NDArray[Any]]]:
    """Of each of the frames."""
    results = [model.features(*tensors_of(inputs)) for inputs in feeds()]
    return [{name: value.numpy() for name, value in result.items()} for result in results]


def assert_same_layers(model: RS4D, graph: ModelProto) -> None:
    """By the inputs' keys, and by the tensors that the Q/DQ pairs need."""
    layers = quantizable_layers(graph)
    tensors = measured(model)
    inputs = {key for key in tensors.ranges if not key.endswith(RESULT)}
    assert inputs == {re.sub(r"/\w+?(?:_(\d+))?$", lambda found: f"/{found[1] or 0}", name) for name in layers}
    needed = tensors_of_layers(graph, [name for name in layers if not EXACT_RESULTS.match(name)])
    found = ranges_of_tensors(graph, tensors.ranges)
    assert set(found) - set(needed) <= {"normalised"} and set(needed) <= set(
        found
    )  # that one is read by the first alone


def test_the_layers_that_learn_with_rounding_are_those_of_the_export(
    make_detector: Callable[[HeadType], RS4D], translated: ModelProto
) -> None:
    assert_same_layers(make_detector(HeadType.BBOX), translated)


@pytest.mark.slow
def test_so_they_are_in_the_published_neck_and_under_gates() -> None:
    """There projections are called twice, and convolutions are exported as products."""
    fields = tiny_config().model_dump()
    fields["encoder"] |= {"stem_channels": None, "path": PathType.FORWARD_REVERSE_GATE}
    fields["neck"] = NeckConfig(type=NeckType.SIMPLE, layers=(0, 1), channels=32, hidden_channels=8).model_dump()
    fields["proposals"] |= {"strides": (4, 8, 16, 32, 64), "scales": (2.5,)}
    fields["roi"] |= {"strides": (4, 8, 16, 32), "detail_channels": 0}
    torch.manual_seed(4)
    model = RS4D(DetectorConfig.model_validate(fields)).eval()
    assert_same_layers(model, translate(model))


def test_training_rounds_to_the_numbers_of_the_graph(
    make_detector: Callable[[HeadType], RS4D], translated: ModelProto, tmp_path: Path
) -> None:
    """Exactly, but for values on the middle between two steps, which may go another way, and what follows from it.

    As a scan carries one such value to all tokens behind it, this is seen in some of the frames; with other roundings,
    almost all numbers of all frames would differ.
    """
    model = make_detector(HeadType.BBOX)
    exact = features_of(model)
    exact_results = [each.module for each in rounded_layers(model) if EXACT_RESULTS.match(f"{each.name}/")]
    tensors = measured(model)
    for module in exact_results:  # ONNX files leave these layers alone
        module.__class__ = nn.Conv2d
    learnt = features_of(model)
    layers = [name for name in quantizable_layers(translated) if not EXACT_RESULTS.match(name)]
    nothing = TensorStatistics(0.0, False, np.zeros(1, np.float32), np.zeros(1, np.float32))
    needed = dict.fromkeys(tensors_of_layers(translated, layers), nothing)
    ranges = with_trained_ranges(needed, translated, tensors.ranges)
    graph = insert_qdq(translated, layers, ranges, PLAIN)
    onnx.save(graph, tmp_path / "model.onnx")
    runtime = OnnxRuntime(tmp_path / "model.onnx", threads=1)
    found = [runtime.run(inputs) for inputs in feeds()]
    runtime.close()
    for name in FEATURES:
        pairs = zip(learnt, exact, strict=True)
        assert all(np.abs(rounded[name] - whole[name]).max() > 1e-3 for rounded, whole in pairs)
    shares = [
        max(_share_that_differs(of_graph[name], own[name]) for name in FEATURES)
        for of_graph, own in zip(found, learnt, strict=True)
    ]
    assert min(shares) < 0.25, shares


def _share_that_differs(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    return float(np.mean(np.abs(one - other) > 1e-5 * np.abs(other).max()))


def test_openvino_without_smoothing_rounds_no_more_tensors(translated: ModelProto, tmp_path: Path) -> None:
    """NNCF has one switch for SmoothQuant and for leaving the residual stream of a transformer exact."""
    pytest.importorskip("nncf")
    from rs4d_edge.export.quantized_openvino import OpenVINOQuantizer

    recipe = Recipe(target=Target.CPU, precision=Precision.INT8, image_size_hw=SIZE_HW)
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, frame in zip(paths, scene_frames(2, SIZE_HW), strict=True):
        assert cv2.imwrite(str(path), frame)
    runs = CalibrationRuns(CalibrationSet("scenes", tuple(paths)), recipe)
    OpenVINOQuantizer(translated, PLAIN).calibrate(runs, tmp_path)
    layers = ElementTree.parse(tmp_path / "int8.xml").getroot().iter("layer")
    rounded = [str(layer.get("name")) for layer in layers if layer.get("type") == "FakeQuantize"]
    assert any(name.startswith("backbone.stem.stride4.0.2/Relu") for name in rounded)
    assert not [name for name in rounded if re.match(r"backbone/Add|MVN|.*nncf_smooth_quant", name)]


def test_a_checkpoint_s_ranges_are_those_of_its_export() -> None:
    ranges = {"neck.lateral8.1/0": TrainedRange(2.5, False), "neck.lateral8.1/0/result": TrainedRange(0.5, True)}
    metadata = {RANGES_KEY: ranges_as_text(ranges)}
    settings = QuantizationSettings.of_checkpoint(metadata)
    assert settings == PLAIN.model_copy(update={"trained_ranges": ranges})
    assert settings.record()["trained_ranges"] == 2
    assert QuantizationSettings.of_checkpoint({}) == QuantizationSettings()
    assert "trained_ranges" not in QuantizationSettings().record()
    for damaged in ("[", "[1]", '{"a": 3}'):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_ranges({RANGES_KEY: damaged})
