"""The graphs that are written lie within what TensorRT's parsers take; what they do not take is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor, make_tensor_value_info

from rs4d_edge.calibration.calibration_set import CalibrationSet
from rs4d_edge.calibration.frames import scene_frames
from rs4d_edge.errors import ExportError
from rs4d_edge.export.graph import translate
from rs4d_edge.export.half_model import write_measured
from rs4d_edge.export.model_files import Written, write_float
from rs4d_edge.export.pipeline import weights_record
from rs4d_edge.export.quantized_export import write_quantized
from rs4d_edge.export.quantized_model import QuantizationPlan
from rs4d_edge.export.recipes import Precision, Recipe, ScanForm, Target
from rs4d_edge.export.scan_function import OPSET, SCAN_DOMAIN
from rs4d_edge.export.tensorrt_graph import tensorrt_graph
from rs4d_edge.export.tensorrt_operators import check_operators
from rs4d_edge.reference.config import HeadType
from rs4d_edge.reference.detector import RS4D
from tests.export.conftest import SIZE_HW

_FLOAT, _HALF, _INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
_UINT8, _INT8, _DOUBLE = TensorProto.UINT8, TensorProto.INT8, TensorProto.DOUBLE
Kinds = Mapping[str, int]
PRECISIONS = (Precision.FP32, Precision.FP16, Precision.INT8, Precision.INT8_FP16)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> CalibrationSet:
    """Two scenes as files."""
    folder = tmp_path_factory.mktemp("calibration")
    for number, frame in enumerate(scene_frames(2, SIZE_HW)):
        assert cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return CalibrationSet(folder.name, tuple(sorted(folder.iterdir())))


def _write(model: RS4D, graph: ModelProto, precision: Precision, frames: CalibrationSet, folder: Path) -> Written:
    """As the pipeline does."""
    recipe = Recipe(target=Target.JETSON, precision=precision, image_size_hw=SIZE_HW)
    (folder / "work").mkdir()
    folders, plan = (folder, folder / "work"), QuantizationPlan(frames)
    if precision.quantized:
        return write_quantized(graph, recipe, model, weights_record(model), plan, folders, 1, lambda text: None)
    if precision.needs_frames:
        return write_measured(graph, recipe, model.config, plan, folders, 1)
    return write_float(graph, recipe, *folders)


@pytest.mark.parametrize("scan", [ScanForm.PLAIN, ScanForm.PLUGIN])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_graph_can_be_parsed(
    precision: Precision,
    scan: ScanForm,
    detector: RS4D,
    translated: ModelProto,
    calibration: CalibrationSet,
    tmp_path: Path,
) -> None:
    copied = ModelProto()
    copied.CopyFrom(translated)
    written = _write(detector, copied, precision, calibration, tmp_path)
    graph = tensorrt_graph(onnx.load(written.features_path), scan)
    plugins = scan is ScanForm.PLUGIN
    check_operators(graph, plugins)
    own = [node for node in graph.graph.node if node.domain == SCAN_DOMAIN]
    assert bool(own) == plugins
    if plugins:
        with pytest.raises(ExportError, match=r"\(Mixer\w+\): a node of our own in a graph that is to do without"):
            check_operators(graph, plugins=False)


@pytest.mark.slow
def test_every_graph_with_the_prompt_head_can_be_parsed(
    make_detector: Callable[[HeadType], RS4D], calibration: CalibrationSet, tmp_path: Path
) -> None:
    model = make_detector(HeadType.PROMPT)
    translated = translate(model)
    for precision in PRECISIONS:
        copied, folder = ModelProto(), tmp_path / precision.value
        copied.CopyFrom(translated)
        folder.mkdir()
        written = _write(model, copied, precision, calibration, folder)
        for scan in (ScanForm.PLAIN, ScanForm.PLUGIN):
            check_operators(tensorrt_graph(onnx.load(written.features_path), scan), scan is ScanForm.PLUGIN)


def test_what_is_not_rewritten_is_refused(translated: ModelProto) -> None:
    with pytest.raises(
        ExportError, match=r"\(Transpose\): .* is UINT8: TensorRT 10.3 to 11 take this operator in BFLOAT16"
    ):
        check_operators(translated, plugins=True)


def _graph(
    nodes: Sequence[NodeProto],
    inputs: Kinds,
    outputs: Kinds,
    constants: Mapping[str, tuple[int, list[Any]]] | None = None,
    opset: int = OPSET,
) -> ModelProto:
    """Tensors of 4 x 4, constants of one axis."""
    given = [make_tensor_value_info(name, kind, [4, 4]) for name, kind in inputs.items()]
    made = [make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    held = [make_tensor(name, kind, [len(values)], values) for name, (kind, values) in (constants or {}).items()]
    graph = make_graph(list(nodes), "g", given, made, held)
    return make_model(
        graph,
        opset_imports=[make_opsetid("", opset), make_opsetid(SCAN_DOMAIN, 1), make_opsetid("else", 1)],
        ir_version=10,
    )


def _pair(zero: tuple[int, list[Any]], output: int = _INT8) -> ModelProto:
    nodes = [
        make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="my/q"),
        make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="my/dq"),
    ]
    return _graph(nodes, {"x": _FLOAT}, {"q": output, "y": _FLOAT}, {"scale": (_FLOAT, [0.1]), "zero": zero})


def _one(operator: str, inputs: Kinds, outputs: Kinds, constants: Any = None, **attributes: Any) -> ModelProto:
    names = [*inputs, *(constants or {})]
    return _graph([make_node(operator, names, list(outputs), name="my/node", **attributes)], inputs, outputs, constants)


def test_what_tensorrt_takes_passes() -> None:
    check_operators(_pair((_INT8, [0])), plugins=False)
    check_operators(_one("TopK", {"x": _FLOAT}, {"v": _FLOAT, "i": _INT64}, {"k": (_INT64, [3839])}), plugins=False)
    check_operators(_one("Cast", {"x": _UINT8}, {"y": _FLOAT}, to=_FLOAT), plugins=False)
    check_operators(_one("Mod", {"x": _INT64}, {"y": _INT64}, {"by": (_INT64, [3])}), plugins=False)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_pair((_INT8, [3])), r"my/q \(QuantizeLinear\): its zero point zero is not a constant of zeros: .*symmetric"),
        (_pair((_UINT8, [0]), _UINT8), r"my/q \(QuantizeLinear\): its zero point zero is UINT8: TensorRT takes INT8"),
        (_one("NonZero", {"x": _FLOAT}, {"y": _INT64}), r"my/node \(NonZero\): .*TensorRT-RTX does not build it"),
        (_one("NonMaxSuppression", {"b": _FLOAT, "s": _FLOAT}, {"y": _INT64}), r"\(NonMaxSuppression\): .*no kernel"),
        (
            _one("DynamicQuantizeLinear", {"x": _FLOAT}, {"q": _UINT8, "s": _FLOAT, "z": _UINT8}),
            r"my/node \(DynamicQuantizeLinear\): no TensorRT takes it: int8 is pairs",
        ),
        (_one("Add", {"x": _FLOAT, "h": _HALF}, {"y": _FLOAT}), r"my/node \(Add\): .*mixed types.*x FLOAT, h FLOAT16"),
        (_one("Add", {"x": _DOUBLE, "h": _DOUBLE}, {"y": _DOUBLE}), r"\(Add\): x is DOUBLE: .* BFLOAT16, FLOAT, FLOAT"),
        (_one("Pow", {"x": _INT64, "by": _INT64}, {"y": _INT64}), r"my/node \(Pow\): x is INT64"),
        (_one("Attention", {"q": _FLOAT}, {"y": _FLOAT}), r"since 10\.14, and JetPack 6 has 10\.3"),
        (_one("If", {"x": _FLOAT}, {"y": _FLOAT}), r"\(If\): not among the operators"),
        (
            _one("TopK", {"x": _FLOAT}, {"v": _FLOAT, "i": _INT64}, {"k": (_INT64, [3840])}),
            r"\(TopK\): its K is 3840: TensorRT takes less than 3840",
        ),
        (
            _one("Resize", {"x": _FLOAT}, {"y": _FLOAT}, {"r": (_FLOAT, []), "s": (_FLOAT, [2.0, 2.0])}, mode="cubic"),
            r"\(Resize\): its mode is 'cubic': TensorRT takes 'nearest', 'linear'",
        ),
        (_one("Unsqueeze", {"x": _FLOAT, "i": _INT64}, {"y": _FLOAT}), r"its input i is computed.*10\.3 takes a const"),
        (_one("Squeeze", {"x": _FLOAT}, {"y": _FLOAT}), r"\(Squeeze\): TensorRT takes it without .* since 11\.5"),
        (_one("Cast", {"x": _FLOAT}, {"y": _DOUBLE}, to=_DOUBLE), r"\(Cast\): y is DOUBLE"),
        (
            _graph(
                [
                    make_node("Cast", ["x"], ["b"], name="there", to=_UINT8),
                    make_node("Cast", ["b"], ["y"], name="back", to=_FLOAT),
                ],
                {"x": _FLOAT},
                {"y": _FLOAT},
            ),
            r"there \(Cast\): b is UINT8 and no output of the network",
        ),
        (
            _graph([make_node("Other", ["x"], ["y"], name="my/node", domain="else")], {"x": _FLOAT}, {"y": _FLOAT}),
            r"my/node \(Other\): TensorRT knows no operators of the domain 'else'",
        ),
        (
            _graph([make_node("Other", ["x"], ["y"], name="n", domain=SCAN_DOMAIN)], {"x": _FLOAT}, {"y": _FLOAT}),
            r"n \(Other\): there is no plugin of that name; expected Mixer",
        ),
        (_graph([], {"x": _FLOAT}, {}, opset=21), r"opset 21: TensorRT 10\.3, JetPack 6's, takes 9 to 20"),
    ],
)
def test_what_tensorrt_does_not_take_is_refused_by_name(model: ModelProto, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        check_operators(model, plugins=True)


def test_a_graph_whose_types_cannot_be_followed_is_refused() -> None:
    model = _graph([make_node("Other", ["x"], ["y"], name="n", domain="else")], {"x": _FLOAT}, {"y": _FLOAT})
    del model.opset_import[1:]
    with pytest.raises(ExportError, match=r"types of the graph cannot be followed: .*Other"):
        check_operators(model, plugins=True)


def _loop(body_nodes: Sequence[NodeProto], after: list[int]) -> ModelProto:
    """Three rounds over a state (4, 4), which a round leaves in the shape `after`."""
    values = make_tensor_value_info
    given = [
        values("i", _INT64, []),
        values("go", TensorProto.BOOL, []),
        values("state", _FLOAT, [4, 4]),
    ]
    made = [values("on", TensorProto.BOOL, []), values("next", _FLOAT, after)]
    nodes = [make_node("Identity", ["go"], ["on"]), *body_nodes]
    held = [make_tensor("twice", _INT64, [2], [2, 1]), make_tensor("half", _HALF, [1], [0.5])]
    body = make_graph(nodes, "body", given, made, held)
    outside = make_node("Loop", ["rounds", "", "x"], ["y"], name="my/loop", body=body)
    return _graph([outside], {"x": _FLOAT}, {"y": _FLOAT}, {"rounds": (_INT64, [3])})


def test_loops_are_looked_into() -> None:
    check_operators(_loop([make_node("Neg", ["state"], ["next"])], [4, 4]), plugins=False)
    with pytest.raises(ExportError, match=r"my/loop \(Loop\): state changes its shape from \(4, 4\) to \(8, 4\)"):
        check_operators(_loop([make_node("Tile", ["state", "twice"], ["next"])], [8, 4]), plugins=False)
    with pytest.raises(ExportError, match=r"mine \(Mul\): its inputs are of mixed types"):
        check_operators(_loop([make_node("Mul", ["state", "half"], ["next"], name="mine")], [4, 4]), plugins=False)
