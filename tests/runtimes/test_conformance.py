"""What every runtime owes to the Predictor, asked of all of them with the same models."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import ModelProto

from rs4d_edge.contract import INPUT_NAMES, OUTPUT_NAMES
from rs4d_edge.errors import ClosedError, InputError, RuntimeFailure
from rs4d_edge.export.graph import save_graph, translate_module
from rs4d_edge.export.recipes import ScanForm
from rs4d_edge.runtimes.contract import Runtime
from rs4d_edge.runtimes.table import open_runtime
from rs4d_edge.runtimes.torch_runtime import TorchRuntime
from tests.runtimes.tiny_models import CONTRACT, SIZE_HW, Scans, Sums, feeds

MODELS: dict[str, type[Sums] | type[Scans]] = {"sums": Sums, "scans": Scans}
FORMS = ("torch", "onnxruntime", "openvino", "openvino-native")


@pytest.fixture(scope="module")
def graphs() -> dict[str, ModelProto]:
    """Both models as ONNX."""
    inputs = (torch.zeros((2, *SIZE_HW, 3), dtype=torch.uint8), torch.ones((2, 2), dtype=torch.int64))
    return {name: translate_module(model().eval(), inputs, OUTPUT_NAMES) for name, model in MODELS.items()}


@pytest.fixture(scope="module")
def files(graphs: dict[str, ModelProto], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The model's file for a form of runtime; skips the test where the engine is absent."""
    folder = tmp_path_factory.mktemp("models")

    def write(form: str, model: str) -> Path:
        package = form.partition("-")[0]
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
        if form == "onnxruntime":
            return save_graph(graphs[model], folder / f"{model}.onnx")
        from rs4d_edge.export.openvino_model import save_ir, scan_extension_works

        native = form == "openvino-native"
        if native and not scan_extension_works():
            pytest.skip("the scan extension for OpenVINO is not there and cannot be built")
        scan = ScanForm.NATIVE if native else ScanForm.PLAIN
        return save_ir(graphs[model], folder / f"{model}-{scan.value}.xml", scan)

    return write


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    """Each runtime, OpenVINO with the scan in both forms."""
    value: str = request.param
    return value


@pytest.fixture
def opened(form: str, files: Callable[[str, str], Path]) -> Iterator[Callable[..., Runtime]]:
    """Open a model by name in the runtime under test; closed afterwards."""
    runtimes: list[Runtime] = []

    def start(model: str, threads: int | None = 1) -> Runtime:
        if form == "torch":
            runtimes.append(TorchRuntime(MODELS[model](), threads=threads))
        else:
            runtimes.append(open_runtime(form.partition("-")[0], files(form, model), threads=threads))
        return runtimes[-1]

    yield start
    for runtime in runtimes:
        runtime.close()


@pytest.mark.parametrize("model", MODELS)
def test_names_types_and_shapes_are_the_contracts(opened: Callable[..., Runtime], model: str) -> None:
    runtime = opened(model)
    assert [spec.name for spec in runtime.inputs] == list(INPUT_NAMES)
    assert [spec.name for spec in runtime.outputs] == list(OUTPUT_NAMES)
    assert {spec.name: spec.shape for spec in runtime.inputs} == CONTRACT.input_shapes
    assert {spec.name: spec.shape for spec in runtime.outputs} == CONTRACT.output_shapes
    dtypes = [spec.dtype for spec in (*runtime.inputs, *runtime.outputs)]
    assert dtypes == [np.uint8, np.int64, np.float32, np.float32, np.int64, np.float32]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_gives_the_known_answer(opened: Callable[..., Runtime], model: str, threads: int | None) -> None:
    runtime = opened(model, threads)
    for seed in range(3):
        given = feeds(seed)
        expected = MODELS[model].answer(given)
        found = runtime.run(given)
        assert set(found) == set(OUTPUT_NAMES)
        for spec in runtime.outputs:
            assert (found[spec.name].dtype, found[spec.name].shape) == (spec.dtype, spec.shape)
            np.testing.assert_allclose(found[spec.name], expected[spec.name], rtol=1e-5, atol=1e-6)


def test_results_are_the_callers_own(opened: Callable[..., Runtime]) -> None:
    runtime = opened("sums")
    first = runtime.run(feeds(0))
    kept = {name: value.copy() for name, value in first.items()}
    runtime.run(feeds(1))
    for name, value in first.items():
        np.testing.assert_array_equal(value, kept[name])
        value[...] = 0  # and may be written to


def test_feeds_are_only_read_whatever_their_layout(opened: Callable[..., Runtime]) -> None:
    runtime = opened("sums")
    given = feeds(2)
    expected = runtime.run(given)
    strided = {
        "frame": np.repeat(given["frame"], 2, axis=2)[:, :, ::2],
        "valid_hw": np.asfortranarray(given["valid_hw"]),
    }
    for array in strided.values():
        array.setflags(write=False)
    for name, value in runtime.run(strided).items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": None}, "'frame'"),
        ({"extra": np.zeros(1)}, "'extra'"),
        ({"frame": feeds(0)["frame"].astype(np.float32)}, "float32"),
        ({"frame": feeds(0)["frame"][:1]}, r"\(1, 6, 4, 3\)"),
        ({"valid_hw": [[1, 1], [1, 1]]}, "list"),
        ({"valid_hw": np.ones((2, 2), dtype=np.int32)}, "int32"),
    ],
)
def test_wrong_feeds_are_named(opened: Callable[..., Runtime], change: dict[str, Any], message: str) -> None:
    given = {name: value for name, value in (feeds(0) | change).items() if value is not None}
    with pytest.raises(InputError, match=message):
        opened("sums").run(given)


def test_nothing_runs_after_close(opened: Callable[..., Runtime]) -> None:
    runtime = opened("sums")
    runtime.close()
    runtime.close()
    with pytest.raises(ClosedError, match="closed"):
        runtime.run(feeds(0))


def test_two_models_at_a_time_do_not_mix(opened: Callable[..., Runtime]) -> None:
    first, second = opened("sums"), opened("scans")
    given = feeds(5)
    for model, runtime in (("sums", first), ("scans", second), ("sums", first)):
        np.testing.assert_allclose(runtime.run(given)["boxes"], MODELS[model].answer(given)["boxes"], rtol=1e-5)


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "openvino"])
def test_unusable_options_and_files_are_refused(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(b"not a model")
    with pytest.raises(InputError, match="threads"):
        open_runtime(name, damaged, threads=0)
    with pytest.raises(InputError, match="fp12"):
        open_runtime(name, damaged, precision="fp12")
    with pytest.raises(InputError, match="no model file"):
        open_runtime(name, tmp_path / "missing.onnx")
    if name != "torch":
        with pytest.raises(RuntimeFailure, match="cannot load"):
            open_runtime(name, damaged)
