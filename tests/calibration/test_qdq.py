"""Q/DQ pairs around chosen layers of small graphs whose exact results are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import pytest
from onnx import ModelProto

from rs4d_edge.calibration.layer_tensors import tensors_of_layers
from rs4d_edge.calibration.qdq import insert_qdq
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.calibration.tensor_statistics import TensorStatistics, collect, load_statistics, save_statistics
from rs4d_edge.errors import DataError, ExportError
from rs4d_edge.runtimes.onnxruntime_runtime import OnnxRuntime

Array = npt.NDArray[Any]
LAYERS = ("a/Conv", "b/Conv", "c/MatMul", "y/Gemm")
TEXT = """
<ir_version: 10, opset_import: ["": 18]>
g (float[1,3,8,8] x) => (float[64,5] y)
<float[1,6,8,8] a, float[1,6,8,8] r, float[1,4,8,8] b, float[1,4,64] flat, float[1,64,4] rows, float[1,64,8] c,
 float[64,8] matrix>
{
  a = Conv <pads: ints = [1, 1, 1, 1]> (x, wa, ba)
  r = Relu (a)
  b = Conv (r, wb, bb)
  flat = Reshape (b, to_flat)
  rows = Transpose <perm: ints = [0, 2, 1]> (flat)
  c = MatMul (rows, wc)
  matrix = Reshape (c, to_matrix)
  y = Gemm <transB: int = 1> (matrix, wd, bd)
}
"""


def make_model(outlier: float = 1.0) -> ModelProto:
    """Two convolutions with a ReLU between them, and two products; channel 2 of the first product's input is larger."""
    random = np.random.default_rng(7)
    model = onnx.parser.parse_model(TEXT)
    for node in model.graph.node:
        node.name = f"{node.output[0]}/{node.op_type}"
    shapes = {"wa": (6, 3, 3, 3), "ba": (6,), "wb": (4, 6, 1, 1), "bb": (4,), "wc": (4, 8), "wd": (5, 8), "bd": (5,)}
    values: dict[str, Array] = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    values["wb"][2] *= outlier
    values["wc"][2] /= outlier
    values |= {"to_flat": np.array([1, 4, 64]), "to_matrix": np.array([64, 8])}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def feeds(seed: int) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).normal(size=(1, 3, 8, 8)).astype(np.float32) + 0.5}


def run(model: ModelProto, folder: Path, inputs: Mapping[str, Array], outputs: tuple[str, ...] = ("y",)) -> list[Array]:
    shown = ModelProto()
    shown.CopyFrom(model)
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    del shown.graph.output[:]
    shown.graph.output.extend(known[name] for name in outputs)
    onnx.save(shown, folder / "model.onnx")
    runtime = OnnxRuntime(folder / "model.onnx", threads=1)
    found = runtime.run(inputs)
    runtime.close()
    return [found[name] for name in outputs]


def measured(model: ModelProto, folder: Path) -> dict[str, TensorStatistics]:
    tensors = tensors_of_layers(model, LAYERS)
    shown = ModelProto()
    shown.CopyFrom(model)
    known = {value.name: value for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    del shown.graph.output[:]
    shown.graph.node.append(onnx.helper.make_node("Identity", ["x"], ["x_seen"]))
    seen = onnx.helper.make_tensor_value_info("x_seen", onnx.TensorProto.FLOAT, [1, 3, 8, 8])
    shown.graph.output.extend([seen, *(known[name] for name in tensors if name != "x")])
    onnx.save(shown, folder / "shown.onnx")
    runtime = OnnxRuntime(folder / "shown.onnx", threads=1)
    renamed = {"x_seen" if name == "x" else name: axis for name, axis in tensors.items()}
    statistics = collect(runtime, [feeds(seed) for seed in range(20)], renamed)
    runtime.close()
    return {"x" if name == "x_seen" else name: value for name, value in statistics.items()}


def rms(error: Array) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


@pytest.mark.parametrize("signed", [False, True])
def test_int8_is_near_and_every_layer_can_be_left_out(tmp_path: Path, signed: bool) -> None:
    model = make_model()
    statistics = measured(model, tmp_path)
    assert set(statistics) == {"x", "r", "b", "rows", "matrix"}
    settings = QuantizationSettings(signed=signed)
    exact = run(model, tmp_path, feeds(50))[0]
    quantized = insert_qdq(model, LAYERS, statistics, settings)
    onnx.checker.check_model(quantized, full_check=True)
    error = rms(run(quantized, tmp_path, feeds(50))[0] - exact) / rms(exact)
    assert 1e-4 < error < 0.05
    for layers in ((), ("a/Conv",), ("c/MatMul", "y/Gemm")):
        part = insert_qdq(model, layers, statistics, settings)
        held = {each.name for each in part.graph.initializer if each.data_type == onnx.TensorProto.INT8 and each.dims}
        assert len({name for name in held if name.endswith("/int8")}) == len(layers)
        error = rms(run(part, tmp_path, feeds(50))[0] - exact) / rms(exact)
        assert (error < 1e-6) == (not layers)


def test_number_types_are_what_each_engine_wants(tmp_path: Path) -> None:
    model = make_model()
    statistics = measured(model, tmp_path)
    for signed in (False, True):
        quantized = insert_qdq(model, LAYERS, statistics, QuantizationSettings(signed=signed))
        held = {each.name: onnx.numpy_helper.to_array(each) for each in quantized.graph.initializer}
        zeros = {name.removesuffix("/zero"): value for name, value in held.items() if name.endswith("/zero")}
        tensors = {name: (value.dtype.name, int(value)) for name, value in zeros.items() if value.ndim == 0}
        if signed:
            assert set(tensors.values()) == {("int8", 0)}
            assert not any(value.dtype == np.int32 for value in held.values()), "TensorRT takes no rounded bias"
        else:
            assert tensors["r"] == ("uint8", 0) and tensors["x/rounded"] == tensors["b"] == ("uint8", 128)
        assert all(value.dtype == np.int8 and not value.any() for name, value in zeros.items() if name.startswith("w"))
        assert not any(name in held for name in ("wa", "wb", "wc", "wd")), "exact weights are left in the file"


def test_smooth_quant_saves_the_small_channels_beside_a_large_one(tmp_path: Path) -> None:
    model = make_model(outlier=100.0)
    statistics = measured(model, tmp_path)
    exact = run(model, tmp_path, feeds(50))[0]
    errors = [
        rms(run(insert_qdq(model, ["c/MatMul"], statistics, settings), tmp_path, feeds(50))[0] - exact)
        for settings in (QuantizationSettings(smooth_projections=False), QuantizationSettings())
    ]
    assert errors[1] < errors[0] / 4


def test_corrected_biases_take_up_the_mean_error_of_the_weights(tmp_path: Path) -> None:
    model = make_model()
    statistics = measured(model, tmp_path)
    inputs = np.concatenate([run(model, tmp_path, feeds(seed), ("matrix",))[0] for seed in range(20)])
    given = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    means = []
    for correct in (False, True):
        settings = QuantizationSettings(signed=True, correct_biases=correct)
        quantized = insert_qdq(model, ["y/Gemm"], statistics, settings)
        held = {each.name: onnx.numpy_helper.to_array(each) for each in quantized.graph.initializer}
        weight = held["y/Gemm/weight/int8"] * held["y/Gemm/weight/scale"][:, None]
        error = inputs @ (weight - given["wd"]).T + held["y/Gemm/bias" if correct else "bd"] - given["bd"]
        means.append(rms(error.mean(axis=0)))
    assert means[1] < means[0] / 100


def test_statistics_are_those_of_the_values_and_survive_a_file(tmp_path: Path) -> None:
    model = make_model()
    statistics = measured(model, tmp_path)
    values = np.concatenate([run(model, tmp_path, feeds(seed), ("r",))[0] for seed in range(20)])
    found = statistics["r"]
    np.testing.assert_allclose(found.largest, np.abs(values).max(axis=(1, 2, 3)).mean(), rtol=1e-6)
    np.testing.assert_allclose(found.channel_largest, values.max(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.channel_mean, values.mean(axis=(0, 2, 3)), rtol=1e-5)
    assert not found.negative and statistics["b"].negative
    save_statistics(statistics, tmp_path / "statistics.npz")
    loaded = load_statistics(tmp_path / "statistics.npz")
    assert loaded.keys() == statistics.keys()
    np.testing.assert_array_equal(loaded["r"].channel_mean, found.channel_mean)
    (tmp_path / "statistics.npz").write_bytes(b"no")
    with pytest.raises(DataError, match="calibrate again"):
        load_statistics(tmp_path / "statistics.npz")


def test_infinite_values_are_no_statistics(tmp_path: Path) -> None:
    model = make_model()
    onnx.save(model, tmp_path / "model.onnx")
    runtime = OnnxRuntime(tmp_path / "model.onnx", threads=1)
    with pytest.raises(ExportError, match="'y' takes infinite"):
        collect(runtime, [{"x": np.full((1, 3, 8, 8), np.inf, np.float32)}], {"y": -1})
    runtime.close()
