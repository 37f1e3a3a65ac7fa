"""Largest magnitudes of a small graph's tensors beside those that numpy computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import pytest
from onnx import ModelProto

from rs4d_edge.calibration.activation_ranges import float_tensors, measure_ranges
from rs4d_edge.errors import ExportError

TEXT = """
<ir_version: 10, opset_import: ["": 18]>
g (uint8[2,4] frame) => (float[2,1] mean, int64[2,1] place)
<float[2,4] x, float[2,4] shifted, float[2,3] product>
{
  x = Cast <to: int = 1> (frame)
  shifted = Sub (x, offset)
  product = MatMul (shifted, weight)
  mean = ReduceMean <keepdims: int = 1> (product, axes)
  place = ArgMax <axis: int = 1> (product)
}
"""


def make_model() -> tuple[ModelProto, npt.NDArray[np.float32]]:
    model = onnx.parser.parse_model(TEXT)
    weight = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    held: dict[str, npt.NDArray[Any]] = {"offset": np.full(1, 200, np.float32), "weight": weight, "axes": np.array([1])}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in held.items())
    return model, weight


def test_each_result_has_its_largest_magnitude_over_all_frames(tmp_path: Path) -> None:
    model, weight = make_model()
    frames = np.random.default_rng(2).integers(0, 256, (3, 2, 4), dtype=np.uint8)
    found = measure_ranges(model, ({"frame": frame} for frame in frames), tmp_path, threads=1)
    shifted = frames.astype(np.float32) - 200
    product = shifted @ weight
    assert np.abs(shifted).max() == -shifted.min()  # the sign does not count
    expected = {"x": frames.max(), "shifted": np.abs(shifted).max(), "product": np.abs(product).max()}
    expected["mean"] = np.abs(product).sum(axis=-1).max()  # what is added up on the way
    assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-5)
    assert not list(tmp_path.iterdir())


def test_infinite_values_are_seen_and_the_graph_is_left_as_it_was(tmp_path: Path) -> None:
    model, weight = make_model()
    weight[0, 0] = np.inf
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(weight, "weight"))
    before = model.SerializeToString()
    found = measure_ranges(model, [{"frame": np.full((2, 4), 7, np.uint8)}], tmp_path)
    assert np.isinf(found["product"]) and found["shifted"] == 193
    assert model.SerializeToString() == before


def test_floats_are_told_from_the_rest() -> None:
    assert float_tensors(make_model()[0]) == {"x", "shifted", "product", "mean", "offset", "weight"}


def test_results_of_unknown_type_are_refused() -> None:
    model, _ = make_model()
    model.graph.node.append(onnx.helper.make_node("Unheard", ["x"], ["lost"], domain="elsewhere"))
    model.opset_import.append(onnx.helper.make_opsetid("elsewhere", 1))
    with pytest.raises(ExportError, match="lost"):
        float_tensors(model)
