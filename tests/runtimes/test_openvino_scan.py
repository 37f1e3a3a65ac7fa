"""The scan inside OpenVINO, by the compiled extension and through Python, against the torch reference."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rs4d_edge.errors import InputError, RuntimeUnavailable
from rs4d_edge.native import build
from rs4d_edge.native.library import HIDE_VARIABLE, NativeUnavailable
from rs4d_edge.reference.scan import selective_scan_reference
from rs4d_edge.runtimes import openvino_scan
from tests.runtimes.openvino_ways import WAYS, make_core, need_native

BATCH, LENGTH, CHANNELS, STATES = 1, 50, 40, 8
Array = NDArray[np.float32]


@pytest.fixture(autouse=True)
def _native(monkeypatch: pytest.MonkeyPatch) -> None:
    need_native(monkeypatch)


@pytest.fixture(params=WAYS)
def core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> openvino.Core:
    """A core that knows the scan by one of the two ways."""
    return make_core(request.param, monkeypatch)


def make_inputs() -> dict[str, Array]:
    random = np.random.default_rng(0)
    tokens, narrow = (BATCH, LENGTH, CHANNELS), (BATCH, LENGTH, STATES)
    inputs = {
        "u": random.standard_normal(tokens),
        "delta": random.uniform(1e-3, 1.0, tokens),
        "a": -random.uniform(1.0, 64.0, (CHANNELS, STATES)),
        "b": random.standard_normal(narrow),
        "c": random.standard_normal(narrow),
        "d": random.standard_normal(CHANNELS),
    }
    return {name: x.astype(np.float32) for name, x in inputs.items()}


def make_model() -> bytes:
    """Z = matmul(scan forward(u) + scan reverse(u), eye): something around the scans that may run in bf16."""
    shapes = {name: x.shape for name, x in make_inputs().items()}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    names = list(shapes)
    nodes = [
        helper.make_node("SelectiveScan", names, ["forward"], domain="rs4d"),
        helper.make_node("SelectiveScan", names, ["backward"], domain="rs4d", reverse=1),
        helper.make_node("Add", ["forward", "backward"], ["both"]),
        helper.make_node("MatMul", ["both", "eye"], ["z"]),
    ]
    eye = onnx.numpy_helper.from_array(np.eye(CHANNELS, dtype=np.float32), "eye")
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, shapes["u"])
    graph = helper.make_graph(nodes, "scans", inputs, [output], [eye])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("rs4d", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def wanted() -> Array:
    inputs = [torch.from_numpy(x).double() for x in make_inputs().values()]
    both = selective_scan_reference(*inputs) + selective_scan_reference(*inputs, reverse=True)
    result: Array = both.float().numpy()
    return result


def run(core: openvino.Core, model: openvino.Model, precision: str) -> Array:
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 2}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    request.infer(make_inputs())
    result: Array = request.get_output_tensor(0).data.copy()
    return result


@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-6), ("bf16", 1e-2)])
def test_both_directions_in_both_precisions(core: openvino.Core, precision: str, tolerance: float) -> None:
    z, expected = run(core, core.read_model(make_model()), precision), wanted()
    assert np.abs(z - expected).max() <= tolerance * np.abs(expected).max()


def test_the_node_survives_the_ir_file(core: openvino.Core, tmp_path: Path) -> None:
    openvino.save_model(core.read_model(make_model()), tmp_path / "scans.xml", compress_to_fp16=False)
    text = (tmp_path / "scans.xml").read_text()
    assert text.count('type="SelectiveScan"') == 2
    z, expected = run(core, core.read_model(tmp_path / "scans.xml"), "f32"), wanted()
    assert np.abs(z - expected).max() <= 1e-6 * np.abs(expected).max()


def test_shapes_that_do_not_fit_are_refused(core: openvino.Core) -> None:
    model = onnx.load_from_string(make_model())
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_value = LENGTH + 1
    with pytest.raises((RuntimeError, InputError), match=r"must have one shape|do not go together"):
        core.read_model(model.SerializeToString())


def test_the_variable_hides_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HIDE_VARIABLE, "1")
    assert not openvino_scan.extension_available()
    with pytest.raises(NativeUnavailable, match=HIDE_VARIABLE):
        openvino_scan.add_scan_extension(openvino.Core(), None)


def test_without_a_compiler_python_takes_over_with_one_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse() -> Path:
        raise RuntimeUnavailable("no C++ compiler found")

    monkeypatch.setattr(openvino_scan, "extension_path", lambda: tmp_path / "absent.so")
    monkeypatch.setattr(openvino_scan, "build_extension", refuse)
    openvino_scan._compiled_extension_problem.cache_clear()
    openvino_scan._warn_once.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="no C\\+\\+ compiler found") as caught:
            ways = [openvino_scan.add_scan_extension(openvino.Core(), 2) for _ in range(2)]
        assert (ways, len(caught)) == (["python", "python"], 1)
    finally:
        openvino_scan._compiled_extension_problem.cache_clear()
        openvino_scan._warn_once.cache_clear()


def test_the_extension_s_name_changes_with_every_file_that_it_is_built_from() -> None:
    """What the compiler itself says that it reads of ours, under the flags of the build."""
    try:
        compiler = build.find_compiler()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    wheel = Path(openvino.__file__).parent
    sources = [build.SOURCE_DIR / name for name in (build.EXTENSION_SOURCE, *build.KERNEL_SOURCES)]
    flags = [*build.COMPILE_FLAGS, *build.EXTENSION_FLAGS, "-isystem", str(wheel / "include"), "-MM"]
    done = subprocess.run([compiler, *flags, *map(str, sources)], capture_output=True, text=True, check=True)
    read = {Path(word).resolve() for word in done.stdout.replace("\\\n", " ").split() if not word.endswith(":")}
    assert read >= {*sources, build.SOURCE_DIR / "openvino_workspace.h", build.SOURCE_DIR / "parallel.h"}
    assert read <= set(build.extension_files())


def test_a_changed_header_gives_the_extension_another_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in build.extension_files():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(build, "SOURCE_DIR", tmp_path)
    monkeypatch.setattr(build, "_source_digest", build._source_digest.__wrapped__)
    names = []
    for text in ("", "// changed\n"):
        (tmp_path / "openvino_workspace.h").write_text(text)
        names.append(build.extension_path(tmp_path))
    assert names[0] != names[1]
