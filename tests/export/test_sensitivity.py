"""Noise of layers, read from the files that are really written and run, and the report on it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import pytest
from onnx import ModelProto
from typer.testing import CliRunner

from rs4d_edge.bundle import open_bundle
from rs4d_edge.calibration.layer_tensors import tensors_of_layers
from rs4d_edge.calibration.qdq import insert_qdq
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.calibration.tensor_statistics import TensorStatistics
from rs4d_edge.errors import DataError, InputError
from rs4d_edge.export import command, pipeline, sensitivity_page
from rs4d_edge.export.recipes import Precision, Recipe, Target
from rs4d_edge.export.sensitivity import (
    WORST,
    LayerSensitivity,
    SensitivityReport,
    add_effects,
    measure_noise,
    paired_rows,
)
from rs4d_edge.export.sensitivity_onnx import write_probes
from rs4d_edge.export.sensitivity_page import write_report
from rs4d_edge.quantization_record import AccuracyRecord, AccuracyStep
from rs4d_edge.reference.checkpoints import save_checkpoint
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.runtimes.contract import Array

# Three layers side by side, none of which reads what another made.
TEXT = """
<ir_version: 10, opset_import: ["": 18]>
g (float[1,4,8,8] x) => (float[1,4,8,8] a, float[1,4,8,8] b, float[1,4,8,8] c)
<float[1,4,8,8] stretched, float[1,4,8,8] shifted>
{
  stretched = Mul (x, stretch)
  shifted = Mul (x, shift)
  a = Conv (x, wa)
  b = Conv (stretched, wb)
  c = Conv (shifted, wc)
}
"""
LAYERS = ("a/Conv", "b/Conv", "c/Conv")
RECIPE = Recipe(target=Target.ONNX, precision=Precision.INT8, image_size_hw=(64, 96))


def make_model(outlier: float) -> ModelProto:
    """Channel 1 of what `b` reads is `outlier` times as large, its weights as much smaller."""
    random = np.random.default_rng(5)
    model = onnx.parser.parse_model(TEXT)
    for node in model.graph.node:
        node.name = f"{node.output[0]}/{node.op_type}"
    stretch = np.array([1, outlier, 1, 1], dtype=np.float32).reshape(1, 4, 1, 1)
    weights = {name: random.normal(size=(4, 4, 1, 1)).astype(np.float32) for name in ("wa", "wb", "wc")}
    weights["wb"] /= stretch
    values = {**weights, "stretch": stretch, "shift": np.full((1, 1, 1, 1), 2, dtype=np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    model.graph.value_info.extend(model.graph.input)
    onnx.checker.check_model(model, full_check=True)
    return model


def statistics_of(values: Array) -> TensorStatistics:
    rows = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])
    return TensorStatistics(float(np.abs(rows).max()), True, np.abs(rows).max(axis=0), rows.mean(axis=0))


def noise_of(model: ModelProto, x: Array, folder: Path, layers: tuple[str, ...] = LAYERS) -> list[LayerSensitivity]:
    held = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    known = {"x": x, "stretched": x * held["stretch"], "shifted": x * held["shift"]}
    known |= {
        name: np.einsum("oi,bihw->bohw", held[f"w{name}"][:, :, 0, 0], known[source])
        for name, source in (("a", "x"), ("b", "stretched"), ("c", "shifted"))
    }
    statistics = {name: statistics_of(known[name]) for name in tensors_of_layers(model, layers)}
    quantized = insert_qdq(model, layers, statistics, QuantizationSettings(correct_biases=False))
    probed = write_probes(model, quantized, layers, folder)
    return list(measure_noise(probed, RECIPE, [{"x": x}], 1))


def test_weights_and_input_have_the_ratios_that_are_counted_by_hand(tmp_path: Path) -> None:
    """Row 0 of the weights has steps of 1, the others are multiples of theirs; so is the input of steps of 0.01."""
    model = make_model(1.0)
    weight = np.zeros((4, 4), dtype=np.float32)
    weight[0] = [127, 3.25, -0.5, 2]  # rounded to 127, 3, 0 (to even), 2: noise 0.0625 + 0.25
    weight[1:, 1] = 1
    for held in model.graph.initializer:
        if held.name == "wa":
            held.CopyFrom(onnx.numpy_helper.from_array(weight.reshape(4, 4, 1, 1), "wa"))
    x = np.full((1, 4, 8, 8), 1.0, dtype=np.float32)
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 1.27, 0.004  # 255 exact values; the last is rounded to 0
    (found,) = noise_of(model, x, tmp_path, ("a/Conv",))
    signal = 127**2 + 3.25**2 + 0.5**2 + 2**2 + 3
    assert found.weights_db == pytest.approx(10 * np.log10(signal / 0.3125), abs=1e-4)
    assert found.input_db == pytest.approx(10 * np.log10((254 + 1.27**2 + 0.004**2) / 0.004**2), abs=0.01)


def test_the_layer_behind_an_outlier_channel_is_the_worst(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(1, 4, 8, 8)).astype(np.float32)
    (tmp_path / "even").mkdir()
    even = {layer.name: layer for layer in noise_of(make_model(1.0), x, tmp_path / "even")}
    planted = {layer.name: layer for layer in noise_of(make_model(200.0), x, tmp_path)}
    ratios = {name: layer.result_db for name, layer in planted.items() if layer.result_db is not None}
    assert set(ratios) == set(LAYERS) and min(ratios, key=lambda name: ratios[name]) == "b/Conv"
    assert ratios["b/Conv"] < min(ratios["a/Conv"], ratios["c/Conv"]) - 10
    for name in ("a/Conv", "c/Conv"):
        assert planted[name] == even[name]


def test_only_layers_that_are_int8_are_in_it(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(1, 4, 8, 8)).astype(np.float32)
    assert [layer.name for layer in noise_of(make_model(1.0), x, tmp_path, LAYERS[1:])] == list(LAYERS[1:])


def test_rows_are_paired_by_their_proposals() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [50, 0, 60, 20], [0, 0, 0, 0]], dtype=np.float32)
    other = boxes[[2, 0, 1, 3]] + np.float32(0.5)
    other[2] = [80, 80, 90, 90]
    pairs = paired_rows({"proposals": np.stack([boxes, boxes])}, {"proposals": np.stack([boxes, other])})
    found = list(zip(pairs.exact.tolist(), pairs.quantized.tolist(), strict=True))
    assert found == [(0, 0), (1, 1), (2, 2), (4, 5), (6, 4)] and pairs.rows == 8


def layer(number: int, result_db: float | None) -> LayerSensitivity:
    return LayerSensitivity(name=f"l{number}/Conv", weights_db=40.0, input_db=30.5, result_db=result_db)


def test_the_effect_is_measured_for_the_worst_ten_with_their_groups() -> None:
    layers = [layer(number, None if number == 0 else 50.0 - number) for number in range(14)]
    groups = [frozenset({"l12/Conv", "l1/Conv"}), frozenset({"l13/Conv"})]
    asked: list[frozenset[str]] = []

    def measure(restored: frozenset[str]) -> float:
        asked.append(restored)
        return 0.3 + 0.01 * len(restored)

    found = {each.name: each for each in add_effects(layers, groups, measure)}
    measured = {name for name, each in found.items() if each.ap_effect is not None}
    assert measured == {f"l{number}/Conv" for number in range(4, 14)} and len(measured) == WORST
    assert found["l12/Conv"].group == ("l1/Conv", "l12/Conv")
    assert found["l12/Conv"].ap_effect == pytest.approx(0.02)
    assert found["l13/Conv"].ap_effect == pytest.approx(0.01)
    assert set(asked) >= {*groups, frozenset()} and frozenset({"l1/Conv"}) not in asked
    assert all(each.ap_effect is None for each in add_effects(layers, groups, None))


def make_report(**changes: object) -> SensitivityReport:
    steps = [
        AccuracyStep(why="all <layers>", restored=("l0/Conv", "l1/Conv"), mask_ap=0.5, latency_ratio=1.0),
        AccuracyStep(why="none", restored=(), mask_ap=0.4, latency_ratio=0.5),
        AccuracyStep(why="effect of l0/Conv alone", restored=("l0/Conv",), mask_ap=0.45),
        AccuracyStep(why="l0/Conv is number 1", restored=("l0/Conv",), mask_ap=0.45, latency_ratio=0.75),
    ]
    accuracy = AccuracyRecord(
        data="0" * 64, images=3, max_drop=0.1, float_ap=0.5, int8_ap=0.45, met=True, steps=tuple(steps)
    )
    layers = layer(0, 20.25), layer(1, 10.0).model_copy(update={"ap_effect": 0.05})
    report = SensitivityReport(
        model="tiny", target="onnx", precision="int8", source="a&b", frames=4, layers=layers, accuracy=accuracy
    )
    return report.model_copy(update=dict(changes))


def test_the_page_stands_alone_and_sorts_by_noise(tmp_path: Path) -> None:
    page, data = write_report(make_report(images=3, float_ap=0.5, plain_ap=0.4), tmp_path / "report.html")
    text = page.read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.json"}
    links = re.findall(r'(?:src|href|action|data)="([^"]*)"|url\(([^)]*)\)|@import', text)
    assert all((first or second).startswith("#") for first, second in links)
    assert not re.search(r"<(script|link|img|iframe|object|embed)\b", text)
    assert not re.search(r"https?://", re.sub(r'xmlns(:\w+)?="[^"]*"', "", text))
    table = text[text.index('id="table-layers"') :]
    assert re.findall(r'<th scope="row">([^<]*)</th><td>(\d)</td><td>([\d.]+)', table) == [
        ("l1/Conv", "2", "10.0"),
        ("l0/Conv", "1", "20.2"),
    ]
    assert "+0.0500" in table
    steps = text[text.index('id="table-steps"') : text.index('id="table-layers"')]
    assert re.findall(r"<td>(0\.\d+)</td><td>(\d\.\d+)</td><td>(\d)</td>", steps) == [
        ("0.5000", "1.00", "2"),
        ("0.4000", "0.50", "0"),
        ("0.4500", "0.75", "1"),
    ]
    assert "all &lt;layers&gt;" in text and "<layers>" not in text and "a&amp;b" in text
    assert SensitivityReport.model_validate_json(data.read_text()) == make_report(images=3, float_ap=0.5, plain_ap=0.4)


def test_without_a_search_there_is_no_picture_of_it(tmp_path: Path) -> None:
    page, _ = write_report(make_report(accuracy=None), tmp_path / "report.html")
    text = page.read_text(encoding="utf-8")
    assert "plot-noise" in text and "plot-latency" not in text and "that needs --val" in text


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.html").write_text("old")

    def fail(*_: object) -> str:
        raise ValueError("no plot")

    with monkeypatch.context() as patch:
        patch.setattr(sensitivity_page, "noise_plot", fail)
        with pytest.raises(ValueError, match="no plot"):
            write_report(make_report(), tmp_path / "report.html")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(InputError, match="no space"):
        write_report(make_report(), tmp_path / "report.html")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.fixture
def arguments(
    detector: RS4D, translated: ModelProto, val_json: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Target], list[str]]:
    """A command line for an int8 export with a report, on the shared translation."""
    copied = ModelProto()
    copied.CopyFrom(translated)
    monkeypatch.setattr(pipeline, "translate", lambda model, batch: copied)
    checkpoint = save_checkpoint(detector, tmp_path / "tiny.safetensors")
    options = ["--precision", "int8", "--calib", str(val_json), "--sensitivity", str(tmp_path / "report.html")]
    return lambda target: [str(checkpoint), "--target", target.value, "--out", str(tmp_path / "bundle"), *options]


@pytest.mark.filterwarnings("ignore:6 calibration frames are few")
@pytest.mark.parametrize("target", [Target.ONNX, pytest.param(Target.CPU, marks=pytest.mark.slow)])
def test_the_report_holds_all_quantized_layers_and_no_other(
    target: Target, arguments: Callable[[Target], list[str]], tmp_path: Path
) -> None:
    if target is Target.CPU:
        pytest.importorskip("nncf")
    result = CliRunner().invoke(command.app, arguments(target))
    assert result.exit_code == 0, result.output
    assert "measure the noise of each layer on 6 frames" in result.output and "report.html" in result.output
    report = SensitivityReport.model_validate_json((tmp_path / "report.json").read_text())
    record = open_bundle(tmp_path / "bundle").manifest.quantization
    assert record is not None
    assert tuple(layer.name for layer in report.layers) == record.quantized
    assert (report.target, report.frames, report.plain_ap) == (target.value, 6, None)
    for each in report.layers:
        ratios = each.weights_db, each.input_db, each.result_db
        assert all(ratio is not None and ratio < 60 for ratio in ratios), each
        assert (each.paired is not None) == each.name.startswith("roi_head."), each
    assert min(layer.weights_db or 0 for layer in report.layers) > 25


@pytest.mark.filterwarnings("ignore:6 calibration frames are few")
def test_there_is_no_report_after_a_failure(
    arguments: Callable[[Target], list[str]], val_json: Path, tmp_path: Path
) -> None:
    (tmp_path / "val.json").write_bytes(val_json.read_bytes())  # without its images
    result = CliRunner().invoke(command.app, [*arguments(Target.ONNX), "--val", str(tmp_path / "val.json")])
    assert isinstance(result.exception, DataError) and "6 of the 6 images" in str(result.exception)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.safetensors", "val.json"}
