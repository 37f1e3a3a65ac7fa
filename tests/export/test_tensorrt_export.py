"""Bundles for TensorRT-RTX: engines of tiny models are built, not run; what is compared is the graph they come from."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.helper
import pytest
from onnx import TensorProto

from rs4d_edge.bundle import open_bundle
from rs4d_edge.calibration.calibration_set import CalibrationSet
from rs4d_edge.calibration.frames import scene_frames
from rs4d_edge.errors import ExportError, InputError, RuntimeUnavailable
from rs4d_edge.export import pipeline, tensorrt_engines
from rs4d_edge.export.command import make_recipe
from rs4d_edge.export.pipeline import ExportResult, export_bundle
from rs4d_edge.export.quantized_model import QuantizationPlan
from rs4d_edge.export.recipes import RTX_CAPABILITIES, Precision, Recipe, ScanForm, Target
from rs4d_edge.export.tensorrt_engines import build_ahead
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.config import HeadType
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.runtimes.tensorrt_plugins import PLUGIN_NAMES
from rs4d_edge.runtimes.tensorrt_record import EngineRecord
from tests.export.conftest import SIZE_HW, scene_files, shared_translation

CAPABILITIES = ("8.6", "8.9")
_SIZES_HW = {HeadType.BBOX: SIZE_HW, HeadType.PROMPT: (96, 64)}  # those that other tests translate, too


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> CalibrationSet:
    """The golden frames as files."""
    return scene_files(tmp_path_factory.mktemp("calibration"))


@pytest.fixture
def export(
    make_detector: Callable[[HeadType], RS4D],
    calibration: CalibrationSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., ExportResult]:
    """Exports a tiny model to `tmp_path`/bundle."""
    monkeypatch.setattr(pipeline, "translate", shared_translation)

    def run(head: HeadType, precision: Precision, scan: ScanForm, capabilities: tuple[str, ...]) -> ExportResult:
        recipe = Recipe(
            target=Target.RTX,
            precision=precision,
            image_size_hw=_SIZES_HW[head],
            compute_capabilities=capabilities,
            scan=scan,
        )
        plan = QuantizationPlan(calibration) if precision.needs_frames else None
        return export_bundle(make_detector(head), recipe, tmp_path / "bundle", plan=plan, threads=1)

    return run


# Those of devices, fp16 and int8, are built by `make test`; fp32 by `make test-all`, and bbox with plugins by one test
# below.
@pytest.mark.parametrize(
    ("head", "precision", "scan"),
    [
        pytest.param(*each, marks=pytest.mark.slow if each[1] is Precision.FP32 else ())
        for each in itertools.product(
            HeadType, (Precision.FP32, Precision.FP16, Precision.INT8), (ScanForm.PLAIN, ScanForm.PLUGIN)
        )
    ],
)
def test_an_engine_is_built_for_every_head_precision_and_scan(
    head: HeadType, precision: Precision, scan: ScanForm, export: Callable[..., ExportResult], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    result = export(head, precision, scan, CAPABILITIES[:1])
    assert result.scan is scan and [engine.compute_capability for engine in result.engines] == ["8.6"]
    graph = onnx.load(tmp_path / "bundle" / "model.onnx").graph
    operators = [node.op_type for node in graph.node]
    own = [node for node in graph.node if node.domain]
    mixers = [node for node in own if node.op_type.startswith("Mixer")]
    assert [node.op_type for node in mixers] == [*PLUGIN_NAMES[:3]] * 2 * (scan is ScanForm.PLUGIN)
    assert {node.op_type for node in own} == ({*PLUGIN_NAMES} if scan is ScanForm.PLUGIN else set())
    assert ("Loop" in operators) == (scan is ScanForm.PLAIN)  # TensorRT records no loop into a CUDA graph
    if own and precision is Precision.FP16:  # also between the plugins, and not only around them
        assert all(node.input[0].endswith("/fp16") and node.output[0].endswith("/fp16") for node in mixers)
        pools = [node for node in own if node.op_type == "RoiAlignAdaptive"]
        assert len(pools) == 6 and all(node.input[0].endswith("/fp16") for node in pools)
    assert ("QuantizeLinear" in operators) == (precision is Precision.INT8)
    assert not {"NonMaxSuppression", "RoiAlign"} & set(operators)
    zeros = [held for held in graph.initializer if held.name.endswith("/zero")]
    assert all(held.data_type == TensorProto.INT8 for held in zeros) and bool(zeros) == (precision is Precision.INT8)
    record = open_bundle(tmp_path / "bundle").manifest.quantization
    assert (record is not None and record.identity.settings["signed"] is True) == (precision is Precision.INT8)
    in_half = [held for held in graph.initializer if held.data_type == TensorProto.FLOAT16]
    assert (len(in_half) > 20) == (precision is Precision.FP16)


def test_the_bundle_says_what_was_built_and_what_was_compared(
    export: Callable[..., ExportResult], tmp_path: Path
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    export(HeadType.BBOX, Precision.FP32, ScanForm.PLUGIN, CAPABILITIES)
    bundle = open_bundle(tmp_path / "bundle")
    manifest = bundle.manifest
    assert (manifest.target, manifest.runtime, manifest.model) == ("rtx", "tensorrt", "model.onnx")
    assert (manifest.options["engines"], manifest.options["scan"]) == ("8.6, 8.9", "plugin")
    assert "in onnxruntime, our nodes by their bodies" in str(manifest.options["compared"])
    assert manifest.tools["tensorrt_rtx"] == trt.__version__
    assert manifest.parity.detections.matched == manifest.parity.detections.reference > 20
    assert {file.path for file in manifest.files if not file.path.startswith(("golden/", "plugin/"))} == {
        "model.onnx",
        *(f"model-sm{number}.{kind}" for number in ("86", "89") for kind in ("engine", "json")),
    }
    for capability in CAPABILITIES:
        stem = bundle.path / f"model-sm{capability.replace('.', '')}"
        record = EngineRecord.model_validate_json(stem.with_suffix(".json").read_text())
        assert (record.library, record.version) == ("tensorrt_rtx", trt.__version__)
        assert (record.engine, record.model, record.compute_capability) == (
            f"{stem.name}.engine",
            "model.onnx",
            capability,
        )
        assert record.plugins == tuple(f"rs4d::{name}" for name in PLUGIN_NAMES)
        assert record.size_bytes == stem.with_suffix(".engine").stat().st_size
        assert (record.weights_bytes or 0) > 0 and (record.activations_bytes or 0) > 0
        contract = manifest.contract
        assert {each.name: each.shape for each in record.inputs} == contract.input_shapes
        assert {each.name: each.shape for each in record.outputs} == contract.output_shapes
        assert [each.dtype for each in record.inputs] == ["uint8", "int64"]
    with Predictor(bundle.path, runtime="onnxruntime", threads=1) as predictor:  # the scan nodes bring a body along
        assert len(predictor.run(scene_frames(1, SIZE_HW)[0]).scores)


def test_a_node_that_cannot_be_built_fails_the_export_by_name(
    export: Callable[..., ExportResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(pipeline, "rewrite_for_tensorrt", lambda written, scan: written._replace(scan=scan))
    with pytest.raises(ExportError, match=r"tensorrt_rtx cannot parse graph/Transpose \(Transpose\): "):
        export(HeadType.BBOX, Precision.FP32, ScanForm.PLAIN, CAPABILITIES)
    assert not (tmp_path / "bundle").exists()


def _write_nms(path: Path) -> Path:
    """A graph that TensorRT-RTX parses and cannot build."""
    nodes = [onnx.helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["found"], name="my/nms")]
    inputs = [
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("boxes", [1, 8, 4]), ("scores", [1, 1, 8]))
    ]
    outputs = [onnx.helper.make_tensor_value_info("found", TensorProto.INT64, [None, 3])]
    most = onnx.helper.make_tensor("most", TensorProto.INT64, [1], [5])
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, [most])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), path)
    return path


def test_failed_builds_leave_nothing_and_say_why(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = _write_nms(tmp_path / "nms.onnx")
    with pytest.raises(ExportError, match=r"cannot build for compute capability 8\.6: .*my/nms"):
        build_ahead(path, "8.6", tmp_path)
    with pytest.raises(ExportError, match=r"has no compute capability 8\.7, only .*8\.6"):
        build_ahead(path, "8.7", tmp_path)
    with pytest.raises(ExportError, match=r"(?s)ended with status 1: .*absent"):
        build_ahead(tmp_path / "absent.onnx", "8.6", tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_without_the_library_nothing_is_begun(detector: RS4D, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_engines, "LIBRARY", "absent_tensorrt")
    recipe = Recipe(target=Target.RTX, image_size_hw=SIZE_HW, compute_capabilities=("8.6",))
    with pytest.raises(RuntimeUnavailable, match=r'absent_tensorrt, .*pip install "rs4d-edge\[export,tensorrt-rtx\]"'):
        export_bundle(detector, recipe, tmp_path / "bundle", progress=lambda step: pytest.fail(step.name))


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (Target.RTX, {}, "give --compute-capability"),
        (Target.RTX, {"compute_capabilities": ("8.7",)}, r"nothing for compute capability 8\.7.*on the device"),
        (Target.RTX, {"compute_capabilities": ("8.6",), "scan": ScanForm.NATIVE}, "plain or plugin in engines, not"),
        (Target.JETSON, {"compute_capabilities": ("8.7",)}, "run rs4d-export build BUNDLE on the device"),
        (Target.JETSON, {"scan": ScanForm.FUNCTION}, "plain or plugin in engines, not 'function'"),
        (Target.ONNX, {"compute_capabilities": ("8.6",)}, "for rtx and jetson, not 'onnx'"),
        (Target.CPU, {"scan": ScanForm.PLAIN}, "for rtx and jetson, not 'cpu'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(target: Target, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_recipe(target, Precision.FP32, (64, 64), 1, **options)


def test_capabilities_that_are_offered_are_known_to_the_library() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    assert {f"SM{each.replace('.', '')}" for each in RTX_CAPABILITIES} <= set(trt.ComputeCapability.__members__)


def test_bf16_and_masks_by_rows_are_refused_for_engines() -> None:
    with pytest.raises(InputError, match=r"no precision 'bf16'.*typed in fp32"):
        make_recipe(Target.RTX, Precision.BF16, (64, 64), 1, compute_capabilities=("8.6",))
    with pytest.raises(ValueError, match="expected mask_rows 0, got 8"):
        Recipe(target=Target.RTX, image_size_hw=(64, 64), compute_capabilities=("8.6",), mask_rows=8)
