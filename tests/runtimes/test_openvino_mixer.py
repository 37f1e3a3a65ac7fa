"""The mixer's core inside OpenVINO, by the compiled extension and through Python."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import openvino
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rs4d_edge.native.library import MixerShape, NativeUnavailable, load_native_scan
from rs4d_edge.reference.mixer_core import mixer_core_composed
from rs4d_edge.runtimes import openvino_scan
from rs4d_edge.runtimes.openvino_runtime import open_model
from rs4d_edge.runtimes.openvino_scan import MIXER_INPUTS
from tests.runtimes.openvino_ways import WAYS, make_core, need_native

SHAPE = MixerShape(batch=1, length=70, channels=40, states=8, rank=5, taps=4)
Array = NDArray[np.float32]


@pytest.fixture(autouse=True)
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    need_native(monkeypatch)


@pytest.fixture(params=WAYS)
def core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> openvino.Core:
    """A core that knows the node by one of the two ways."""
    return make_core(request.param, monkeypatch)


def make_inputs(batch: int = 1, seed: int = 0) -> dict[str, Array]:
    """By name; `seed` changes uz alone, so that the weights stay the model's."""
    random = np.random.default_rng(7)
    _, length, channels, states, rank, taps = SHAPE
    weights = {
        "conv_weight": random.standard_normal((channels, taps)) * 0.5,
        "conv_bias": random.standard_normal(channels) * 0.1,
        "x_proj": random.standard_normal((rank + 2 * states, channels)) * channels**-0.5,
        "dt_proj": random.standard_normal((channels, rank)) * rank**-0.5,
        "dt_bias": random.uniform(-7.0, 3.0, channels),
        "a": -np.exp(random.uniform(0.0, 4.15, (channels, states))),
        "d": random.standard_normal(channels),
    }
    uz = np.random.default_rng(seed).standard_normal((batch, length, 2 * channels)) * 2.0
    return {name: x.astype(np.float32) for name, x in {"uz": uz, **weights}.items()}


def make_model(batch: int | str = 1, changed: Mapping[str, tuple[int, ...]] = MappingProxyType({})) -> bytes:
    """Z = matmul(MixerCore(matmul(x, eye)), eye): neighbours that may run in bf16, and in fp32 change nothing.

    The weights are constants; those named in `changed` are zeros of another shape.
    """
    inputs, width = make_inputs(), SHAPE.channels
    held = {name: np.zeros(changed[name], np.float32) if name in changed else inputs[name] for name in MIXER_INPUTS[1:]}
    held |= {"eye_in": np.eye(2 * width, dtype=np.float32), "eye_out": np.eye(width, dtype=np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "eye_in"], ["uz"]),
        helper.make_node("MixerCore", MIXER_INPUTS, ["y"], domain="rs4d"),
        helper.make_node("MatMul", ["y", "eye_out"], ["z"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, SHAPE.length, 2 * width))
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in held.items()]
    graph = helper.make_graph(nodes, "mixer", [x], [z], constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("rs4d", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def native(inputs: dict[str, Array]) -> Array:
    scan, arrays = load_native_scan(), list(inputs.values())
    shape = SHAPE._replace(batch=arrays[0].shape[0])
    y = np.empty((shape.batch, shape.length, shape.channels), np.float32)
    workspace = np.empty(scan.mixer_workspace_floats(shape, threads=2), np.float32)
    addresses = tuple(x.ctypes.data for x in arrays)
    scan.mixer_core(addresses, shape, y.ctypes.data, workspace.ctypes.data, threads=2)
    return y


def largest_error(z: Array, inputs: dict[str, Array]) -> float:
    """Relative to the largest value that torch gives in float64."""
    wanted = mixer_core_composed(*(torch.from_numpy(x).double() for x in inputs.values())).numpy()
    return float(np.abs(z - wanted).max() / np.abs(wanted).max())


def compiled(core: openvino.Core, model: openvino.Model, precision: str = "f32", streams: int = 1) -> openvino.Model:
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 2, "NUM_STREAMS": streams}
    return core.compile_model(model, "CPU", options)


def infer(request: openvino.InferRequest, inputs: dict[str, Array]) -> Array:
    request.infer({"x": inputs["uz"]})
    result: Array = request.get_output_tensor(0).data.copy()
    return result


@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-6), ("bf16", 2e-2)])
def test_the_numbers_in_both_precisions(core: openvino.Core, precision: str, tolerance: float) -> None:
    inputs = make_inputs()
    z = infer(compiled(core, core.read_model(make_model()), precision).create_infer_request(), inputs)
    assert largest_error(z, inputs) <= tolerance
    if precision == "f32":
        np.testing.assert_array_equal(z, native(inputs))


@pytest.mark.parametrize("batch", [2, 3])
def test_several_sequences(core: openvino.Core, batch: int) -> None:
    inputs = make_inputs(batch)
    z = infer(compiled(core, core.read_model(make_model(batch))).create_infer_request(), inputs)
    np.testing.assert_array_equal(z, native(inputs))


def test_one_request_for_batches_of_any_size(core: openvino.Core) -> None:
    request = compiled(core, core.read_model(make_model("batch"))).create_infer_request()
    for batch in (1, 4, 2):  # the kept workspace is too small, then larger than needed
        inputs = make_inputs(batch, seed=batch)
        np.testing.assert_array_equal(infer(request, inputs), native(inputs))


def test_two_requests_at_the_same_time(core: openvino.Core) -> None:
    model = compiled(core, core.read_model(make_model(8)), streams=2)  # long enough to overlap
    start = threading.Barrier(2)

    def wrong_turns(seed: int) -> list[int]:
        request, inputs = model.create_infer_request(), make_inputs(8, seed)
        expected = native(inputs)
        start.wait()
        return [turn for turn in range(50) if not np.array_equal(infer(request, inputs), expected)]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(wrong_turns, (1, 2))) == [[], []]


@pytest.mark.parametrize(("writer", "reader"), [("c++", "python"), ("python", "c++"), ("c++", "c++")])
def test_the_ir_file_opens_in_a_fresh_process(
    writer: str, reader: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    core = make_core(writer, monkeypatch)
    openvino.save_model(core.read_model(make_model()), tmp_path / "mixer.xml", compress_to_fp16=False)
    assert (tmp_path / "mixer.xml").read_text().count('type="MixerCore"') == 1
    inputs = make_inputs()
    np.save(tmp_path / "x.npy", inputs["uz"])
    hide = "openvino_scan._compiled_extension_problem = lambda: 'hidden by the test'; " if reader == "python" else ""
    program = (
        f"import numpy, pathlib; from rs4d_edge.runtimes import openvino_runtime, openvino_scan; {hide}"
        "opened = openvino_runtime.open_model(pathlib.Path('mixer.xml'), threads=2, precision='fp32'); "
        "numpy.save('z.npy', opened.run({'x': numpy.load('x.npy')})['z'])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("through Python" in done.stderr) == (reader == "python")
    z = np.load(tmp_path / "z.npy")
    np.testing.assert_array_equal(z, native(inputs))
    assert largest_error(z, inputs) <= 1e-6


OTHER_SHAPES = {"conv_weight": (41, 4), "conv_bias": (40, 1), "x_proj": (20, 40), "dt_proj": (40, 6), "dt_bias": (39,),
                "a": (8, 40), "d": (1,)}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_SHAPES)
def test_weights_that_do_not_fit_are_refused(core: openvino.Core, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"MixerCore: .*expected"):
        core.read_model(make_model(changed={name: OTHER_SHAPES[name]}))


def test_tokens_that_do_not_fit_are_refused_when_they_come(core: openvino.Core) -> None:
    """A width that is unknown until a frame is there: the kernel must not read past its end."""
    model = core.read_model(make_model())
    x = openvino.opset13.parameter([1, SHAPE.length, -1], openvino.Type.f32, name="x")
    mixer = next(node for node in model.get_ordered_ops() if node.get_type_name() == "MixerCore")
    mixer.input(0).replace_source_output(x.output(0))
    request = compiled(core, openvino.Model([mixer.output(0)], [x], "free")).create_infer_request()
    inputs = make_inputs()
    request.infer([inputs["uz"]])
    np.testing.assert_array_equal(request.get_output_tensor(0).data, native(inputs))
    with pytest.raises(RuntimeError, match=r"MixerCore: .*expected"):
        request.infer([inputs["uz"][:, :, :-2].copy()])


def test_an_ir_file_without_any_way_names_both_reasons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    core = make_core("python", monkeypatch)
    openvino.save_model(core.read_model(make_model()), tmp_path / "mixer.xml", compress_to_fp16=False)

    def refuse() -> None:
        raise NativeUnavailable("no library here")

    monkeypatch.setattr(openvino_scan, "_compiled_extension_problem", lambda: "no compiler here")
    monkeypatch.setattr(openvino_scan, "load_native_scan", refuse)
    with pytest.raises(NativeUnavailable, match="no library here; its extension: no compiler here"):
        open_model(tmp_path / "mixer.xml", threads=2, precision="fp32")
