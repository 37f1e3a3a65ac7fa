"""`rs4d-bench --matrix MODEL`: what is exported, what is kept, and how a refusal becomes a row."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from rs4d_edge.bundle import open_bundle, sha256_of
from rs4d_edge.calibration.calibration_set import open_calibration_set
from rs4d_edge.calibration.identity import identify, key_of
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.commands import matrix_exports
from rs4d_edge.commands.bench import app
from rs4d_edge.commands.matrix_exports import Form, Source, export, forms, open_source, why_outdated
from rs4d_edge.errors import DataError, InputError, ParityError
from rs4d_edge.export import command
from rs4d_edge.export.recipes import Precision, Recipe, Target
from rs4d_edge.manifest import WeightsRecord
from rs4d_edge.quantization_record import QuantizationRecord, RangeRecord
from rs4d_edge.reference.shipped import DEFAULT_NAME, shipped_path
from tests.commands.constant_bundles import CONTRACT, write_constant_bundle, write_data
from tests.stand_ins import small_bundle

ONNX_INT8 = Form(Target.ONNX, Precision.INT8)
CPU_FP32 = Form(Target.CPU, Precision.FP32)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """A file in the place of weights, and images to calibrate on."""
    weights = tmp_path / "tiny.safetensors"
    weights.write_bytes(b"weights")
    write_data(tmp_path / "data")
    return Source(str(weights), weights, tmp_path / "data" / "images", samples=2)


@pytest.fixture(autouse=True)
def few_frames() -> Any:
    """Calibration sets of tests are small, and say so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ calibration frames are few")
        yield


def test_the_forms_are_all_that_a_recipe_takes_fp32_first() -> None:
    found = list(forms())
    assert len(set(found)) == len(found)
    for target in (Target.ONNX, Target.CPU):
        assert next(form.precision for form in found if form.target is target) is Precision.FP32
    assert {Form(Target.CPU, Precision.BF16), ONNX_INT8} <= set(found)
    for form in found:
        Recipe(target=form.target, precision=form.precision, image_size_hw=(64, 64))
    assert Form(Target.ONNX, Precision.BF16) not in found


@pytest.mark.parametrize("form", [ONNX_INT8, CPU_FP32])
def test_the_export_command_understands_what_it_is_told(
    source: Source, form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = SimpleNamespace(config=SimpleNamespace(encoder=SimpleNamespace(image_size_hw=(64, 64))))
    asked: dict[str, Any] = {}

    def note(reference: Any, recipe: Recipe, out: Path, **options: Any) -> None:
        asked.update(options, recipe=recipe, out=out)
        raise ParityError("stop here")

    monkeypatch.setattr(command, "load", lambda name: reference)
    monkeypatch.setattr(command, "weights_record", lambda *_: None)
    monkeypatch.setattr(command, "export_bundle", note)
    result = CliRunner().invoke(command.app, source.arguments(form, tmp_path / "out"))
    assert isinstance(result.exception, ParityError), result.output
    assert (asked["recipe"].target, asked["recipe"].precision) == (form.target, form.precision)
    assert (asked["out"], asked["overwrite"]) == (tmp_path / "out", True)
    assert (asked["plan"] is not None) == form.precision.needs_frames
    if asked["plan"] is not None:
        assert len(asked["plan"].frames) == 2


@pytest.mark.parametrize(
    ("program", "answer"),
    [
        ("pass", None),
        ("sys.exit('warning: few\\nerror: the gate says no')", "the gate says no"),
        ("sys.exit(137)", "rs4d-export ended with status 137: it said nothing"),
        ("raise ValueError('bad error: here')", "rs4d-export ended with status 1: ValueError: bad error: here"),
    ],
)
def test_a_refusal_is_told_in_the_commands_own_words(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, answer: str | None
) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c \"import sys; {program}\"\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    assert export(source, CPU_FP32, tmp_path / "out") == answer


def test_a_bundle_is_kept_while_weights_and_tools_are_the_same(source: Source, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    own = WeightsRecord(name="tiny.safetensors", sha256=sha256_of(source.weights))
    entries: dict[str, Any] = {"overwrite": True, "target": "cpu", "weights": own, "tools": {"python": "2.7"}}
    small_bundle(out, **entries)
    assert why_outdated(out, source, CPU_FP32) is None
    for changes, reason in (
        ({"weights": WeightsRecord(name="tiny.safetensors", sha256="0" * 64)}, "other weights"),
        ({"tools": {"numpy": "0.1"}}, "another version of numpy"),
        ({"precision": "bf16"}, "it is cpu bf16"),
    ):
        small_bundle(out, **{**entries, **changes})
        assert reason in str(why_outdated(out, source, CPU_FP32))
    (out / "model.onnx").unlink()
    assert "lacks model.onnx" in str(why_outdated(out, source, CPU_FP32))


def test_an_int8_bundle_is_kept_while_its_calibration_would_be_the_same(source: Source, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    own = WeightsRecord(name="tiny.safetensors", sha256=sha256_of(source.weights))
    frames = open_calibration_set(source.calib, 2)
    identity = identify(own, frames, CONTRACT.image_size_hw, 1, QuantizationSettings(), ("numpy",))
    record = QuantizationRecord(
        key=key_of(identity),
        identity=identity,
        source="images",
        frames=2,
        quantized=("a",),
        high_precision=(),
        rest="fp32",
    )
    entries: dict[str, Any] = {"weights": own, "contract": CONTRACT, "tools": {}, "overwrite": True}
    small_bundle(out, precision="int8", quantization=record, **entries)
    assert why_outdated(out, source, ONNX_INT8) is None
    more = Source(source.model, source.weights, source.calib, samples=3)
    assert "other frames" in str(why_outdated(out, more, ONNX_INT8))
    settings = {**identity.settings, "signed": True}
    changed = record.model_copy(update={"identity": identity.model_copy(update={"settings": settings})})
    small_bundle(out, precision="int8", quantization=changed, **entries)
    assert "another signed" in str(why_outdated(out, source, ONNX_INT8))
    small_bundle(out, precision="int8", **entries)
    assert "not calibrated" in str(why_outdated(out, source, ONNX_INT8))


def test_an_fp16_bundle_is_kept_while_its_frames_are_the_same(source: Source, tmp_path: Path) -> None:
    own = WeightsRecord(name="tiny.safetensors", sha256=sha256_of(source.weights))
    pixels, _ = open_calibration_set(source.calib, 2).digests(CONTRACT.image_size_hw, 1)
    ranges = RangeRecord(pixels=pixels, source="images", frames=2, limit=1e4, largest={}, islands=())
    form = Form(Target.ONNX, Precision.FP16)
    small_bundle(tmp_path / "bundle", precision="fp16", weights=own, contract=CONTRACT, ranges=ranges, tools={})
    assert why_outdated(tmp_path / "bundle", source, form) is None
    more = Source(source.model, source.weights, source.calib, samples=3)
    assert "other frames" in str(why_outdated(tmp_path / "bundle", more, form))


def test_a_model_and_its_calibration_are_checked_first(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    assert open_source(DEFAULT_NAME, data, None).weights == shipped_path(DEFAULT_NAME)
    with pytest.raises(InputError, match="--calib"):
        open_source(DEFAULT_NAME, None, None)
    with pytest.raises(InputError, match="no-such-model is none of these"):
        open_source("no-such-model", data, None)
    with pytest.raises(DataError, match="absent"):
        open_source(DEFAULT_NAME, tmp_path / "absent", None)


def test_what_is_refused_stops_no_other(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every form is a row: one is made by a stand-in, the other refused. A second run keeps what was made."""
    pytest.importorskip("onnxruntime")
    digest = sha256_of(source.weights)
    made: list[str] = []

    def stand_in(_: Source, form: Form, out: Path) -> str | None:
        if form.target is not Target.ONNX:
            return f"no {form.name} here"
        made.append(form.name)
        write_constant_bundle(out, form.precision.value, weights=digest)
        return None

    monkeypatch.setattr(matrix_exports, "export", stand_in)
    monkeypatch.setattr(matrix_exports, "forms", lambda: iter([Form(Target.ONNX, Precision.FP32), CPU_FP32]))
    written, work = tmp_path / "matrix.json", tmp_path / "work"
    command = ["--matrix", source.model, "--data", str(tmp_path / "data" / "val.json"), "--calib", str(source.calib)]
    for _ in range(2):
        options = ["--work", str(work), "--runs", "1", "--json", str(written)]
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 0, result.exception
        rows = json.loads(written.read_text())["rows"]
        assert [row["what"] for row in rows] == ["onnx fp32", "cpu fp32"]
        assert rows[0]["refused"] is None and rows[0]["options"] == "--target onnx"
        assert rows[1]["refused"] == "no cpu fp32 here"
        assert "cpu fp32: refused: no cpu fp32 here" in result.output
    assert made == ["onnx fp32"]
    assert open_bundle(work / "tiny-onnx-fp32").manifest.name == "constant"
