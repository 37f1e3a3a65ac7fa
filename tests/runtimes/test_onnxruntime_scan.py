"""Our nodes in ONNX Runtime: by our kernels, by the file's own bodies, and how the library comes about."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.export.mixer_function import MIXER_INPUTS, MIXER_OP
from rs4d_edge.export.scan_function import SCAN_INPUTS, SCAN_OP, add_scan_function, inline_scan
from rs4d_edge.native.build import find_compiler
from rs4d_edge.native.library import HIDE_VARIABLE
from rs4d_edge.reference.mixer_core import mixer_core_composed
from rs4d_edge.reference.scan import selective_scan_reference
from rs4d_edge.runtimes import onnxruntime_scan
from rs4d_edge.runtimes.onnxruntime_runtime import OnnxRuntime

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]
BATCH, TOKENS, CHANNELS, STATES, RANK, TAPS = 2, 37, 24, 8, 3, 4
NARROW = (BATCH, TOKENS, STATES)
WIDE = (BATCH, TOKENS, CHANNELS)
SCAN_SHAPES = (WIDE, WIDE, (CHANNELS, STATES), NARROW, NARROW, (CHANNELS,))
MIXER_SHAPES = (
    (BATCH, TOKENS, 2 * CHANNELS),
    (CHANNELS, TAPS),
    (CHANNELS,),
    (RANK + 2 * STATES, CHANNELS),
    (CHANNELS, RANK),
    (CHANNELS,),
    (CHANNELS, STATES),
    (CHANNELS,),
)
SHAPES: dict[str, dict[str, Shape]] = {
    SCAN_OP: dict(zip(SCAN_INPUTS, SCAN_SHAPES, strict=True)),
    MIXER_OP: dict(zip(MIXER_INPUTS, MIXER_SHAPES, strict=True)),
}
NODES = [(SCAN_OP, False), (SCAN_OP, True), (MIXER_OP, False)]
CPU = ["CPUExecutionProvider"]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library in its place, built if it is not there; skips where there is no compiler."""
    monkeypatch.delenv(HIDE_VARIABLE, raising=False)
    path = onnxruntime_scan.library_path()
    if not path.is_file():
        try:
            find_compiler()
        except RuntimeUnavailable as error:
            pytest.skip(str(error))
        onnxruntime_scan.build_scan_library()
    return path


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Nothing is known of the library before or after: neither whether it works nor whether a warning was given."""
    caches = (onnxruntime_scan._library_problem, onnxruntime_scan._warn_once)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def make_model(op: str, *, reverse: bool = False, other_shapes: Mapping[str, Shape] | None = None) -> ModelProto:
    """One node, all its inputs the model's; `other_shapes` in place of the right ones."""
    shapes = SHAPES[op] | dict(other_shapes or {})
    node = helper.make_node(op, list(shapes), ["y"], domain="rs4d", reverse=int(reverse))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, WIDE)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("rs4d", 1)]
    return helper.make_model(helper.make_graph([node], op, inputs, [output]), opset_imports=opsets, ir_version=9)


def make_feeds(op: str, **other_shapes: Shape) -> dict[str, Array]:
    random = np.random.default_rng(0)
    shapes = SHAPES[op] | other_shapes
    feeds = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name in {"delta"} & feeds.keys():
        feeds[name] = np.abs(feeds[name])
    for name in {"conv_weight", "x_proj", "dt_proj"} & feeds.keys():
        feeds[name] *= np.float32(shapes[name][-1] ** -0.5)
    return feeds | {"a": -np.exp(feeds["a"])}


def wanted(op: str, *, reverse: bool = False) -> npt.NDArray[np.float64]:
    feeds = make_feeds(op)
    tensors = [torch.from_numpy(feeds[name]).double() for name in SHAPES[op]]
    if op == MIXER_OP:
        return np.asarray(mixer_core_composed(*tensors))
    return np.asarray(selective_scan_reference(*tensors, reverse=reverse))


def assert_close(got: Array, expected: npt.NDArray[np.floating[Any]]) -> None:
    """As near as fp32 comes to a sum whose terms are much larger than it."""
    assert np.abs(got - expected).max() <= 2e-6 * np.abs(expected).max()


def operators_run(session: onnxruntime.InferenceSession) -> set[str]:
    events = json.loads(Path(session.end_profiling()).read_text())
    return {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}


def profiled(folder: Path, *, threads: int = 0) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    return options


@pytest.mark.parametrize(("op", "reverse"), NODES)
@pytest.mark.parametrize("with_body", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_kernel_serves_in_place_of_the_body(
    library: Path, tmp_path: Path, op: str, reverse: bool, with_body: bool, threads: int
) -> None:
    model = make_model(op, reverse=reverse)
    if with_body:
        add_scan_function(model)
    options = profiled(tmp_path, threads=threads)
    assert onnxruntime_scan.add_scan_kernel(options)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=CPU)
    (got,) = session.run(None, make_feeds(op))
    assert operators_run(session) == {op}
    assert_close(got, wanted(op, reverse=reverse))


@pytest.mark.parametrize(("op", "reverse"), NODES)
def test_one_file_serves_a_stock_runtime_too(library: Path, tmp_path: Path, op: str, reverse: bool) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(add_scan_function(make_model(op, reverse=reverse)).SerializeToString())
    stock = onnxruntime.InferenceSession(path, profiled(tmp_path), providers=CPU)
    (plain,) = stock.run(None, make_feeds(op))
    assert not operators_run(stock) & {SCAN_OP, MIXER_OP}
    ours = OnnxRuntime(path, threads=2, profile_prefix=tmp_path / "ours")
    native = ours.run(make_feeds(op))["y"]
    assert ours._session is not None
    assert operators_run(ours._session) == {op}
    assert_close(native, plain)


def test_concurrent_runs_of_a_session_do_not_disturb_each_other(library: Path) -> None:
    """Each calling thread has a workspace of its own, also where another size comes in between."""
    options = onnxruntime.SessionOptions()
    onnxruntime_scan.add_scan_kernel(options)
    model, short = make_model(MIXER_OP), {"uz": (1, 5, 2 * CHANNELS)}
    for value in (model.graph.input[0], model.graph.output[0]):
        for axis, name in enumerate(("batch", "tokens")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=CPU)
    feeds = [make_feeds(MIXER_OP), make_feeds(MIXER_OP, **short)]
    alone = [session.run(None, each)[0] for each in feeds]
    assert alone[1].shape == (1, 5, CHANNELS)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda index: session.run(None, feeds[index % 2])[0], range(40)))
    for index, y in enumerate(together):
        np.testing.assert_array_equal(y, alone[index % 2])


@pytest.mark.parametrize(
    ("op", "name", "shape", "message"),
    [
        (SCAN_OP, "d", (23,), r"rs4d::SelectiveScan: d is \(23\), expected \(24\)"),
        (SCAN_OP, "a", (24,), r"u is \(2, 37, 24\) and a is \(24\)"),
        (MIXER_OP, "uz", (2, 37, 24), r"rs4d::MixerCore: uz is \(2, 37, 24\), expected \(2, 37, 48\)"),
        (MIXER_OP, "x_proj", (18, 24), r"x_proj is \(18, 24\), expected \(19, 24\)"),
        (MIXER_OP, "dt_proj", (24,), r"dt_proj \(24\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(library: Path, op: str, name: str, shape: Shape, message: str) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    onnxruntime_scan.add_scan_kernel(options)
    model = make_model(op, other_shapes={name: shape})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=CPU)
    with pytest.raises(Exception, match=message):
        session.run(None, make_feeds(op, **{name: shape}))


@pytest.mark.parametrize("op", [SCAN_OP, MIXER_OP])
def test_the_output_s_shape_is_known_before_a_run(library: Path, op: str) -> None:
    model = make_model(op)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    options = onnxruntime.SessionOptions()
    onnxruntime_scan.add_scan_kernel(options)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=CPU)
    assert tuple(session.get_outputs()[0].shape) == WIDE


def test_a_file_tells_whether_it_has_our_nodes(tmp_path: Path) -> None:
    model = add_scan_function(make_model(SCAN_OP))
    contents = {"ours": model.SerializeToString(), "plain": inline_scan(model).SerializeToString(), "empty": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert [onnxruntime_scan.has_own_nodes(tmp_path / name) for name in contents] == [True, False, False]


@pytest.mark.usefixtures("forgetful")
def test_the_first_model_builds_the_library(monkeypatch: pytest.MonkeyPatch, library: Path, tmp_path: Path) -> None:
    target, builds = tmp_path / library.name, []

    def build() -> Path:
        builds.append(target)
        target.write_bytes(library.read_bytes())
        return target

    monkeypatch.setattr(onnxruntime_scan, "library_path", lambda: target)
    monkeypatch.setattr(onnxruntime_scan, "build_scan_library", build)
    model = tmp_path / "model.onnx"
    model.write_bytes(make_model(SCAN_OP).SerializeToString())
    for _ in range(2):
        OnnxRuntime(model).close()
    assert builds == [target]


@pytest.mark.usefixtures("forgetful")
def test_without_a_compiler_the_body_serves_with_one_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(HIDE_VARIABLE, raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(onnxruntime_scan, "library_path", lambda folder=None: tmp_path / "absent.so")
    model = tmp_path / "model.onnx"
    model.write_bytes(add_scan_function(make_model(SCAN_OP)).SerializeToString())
    with pytest.warns(RuntimeWarning, match=r"several times slower: no C\+\+ compiler found") as caught:
        outputs = [OnnxRuntime(model).run(make_feeds(SCAN_OP))["y"] for _ in range(2)]
    assert len(caught) == 1
    assert_close(outputs[1], wanted(SCAN_OP))
    assert onnxruntime_scan.main() == 1


@pytest.mark.usefixtures("forgetful")
def test_a_library_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(HIDE_VARIABLE, raising=False)
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(onnxruntime_scan, "library_path", lambda: broken)
    with pytest.warns(RuntimeWarning, match=rf"onnxruntime {onnxruntime.__version__} refuses .*broken\.so"):
        assert not onnxruntime_scan.add_scan_kernel(onnxruntime.SessionOptions())


@pytest.mark.filterwarnings("error")
def test_the_variable_hides_the_library_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HIDE_VARIABLE, "1")
    assert not onnxruntime_scan.add_scan_kernel(onnxruntime.SessionOptions())
