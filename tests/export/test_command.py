"""`rs4d-export` as a user meets it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import cv2
import pytest
from onnx import ModelProto
from typer.testing import CliRunner

from rs4d_edge.bundle import open_bundle, sha256_of
from rs4d_edge.calibration.frames import scene_frames
from rs4d_edge.commands import verify
from rs4d_edge.errors import InputError, ParityError
from rs4d_edge.export import command, pipeline
from rs4d_edge.reference.checkpoints import save_checkpoint
from rs4d_edge.reference.detector import RS4D
from tests.export.test_pipeline import perturb


@pytest.fixture
def checkpoint(detector: RS4D, tmp_path: Path) -> Path:
    """The small detector on disk."""
    return save_checkpoint(detector, tmp_path / "tiny.safetensors")


@pytest.fixture
def graph(translated: ModelProto, monkeypatch: pytest.MonkeyPatch) -> ModelProto:
    """The shared translation in place of a new one."""
    copied = ModelProto()
    copied.CopyFrom(translated)
    monkeypatch.setattr(pipeline, "translate", lambda model, batch: copied)
    return copied


def test_steps_and_proof_are_shown_and_the_bundle_names_its_weights(checkpoint: Path, graph: ModelProto) -> None:
    out = checkpoint.parent / "bundle"
    result = CliRunner().invoke(command.app, [str(checkpoint), "--target", "onnx", "--out", str(out), "--bisect"])
    assert result.exit_code == 0, result.output
    for text in (
        "translate to ONNX",
        "compare with the reference on 3 frames",
        "encoder.1",
        "no result departs",
        "matched",
    ):
        assert text in result.output
    weights = open_bundle(out).manifest.weights
    assert (weights.name, weights.sha256) == ("tiny.safetensors", sha256_of(checkpoint))


def test_golden_frames_are_the_users(checkpoint: Path, graph: ModelProto) -> None:
    out = checkpoint.parent / "bundle"
    CliRunner().invoke(command.app, [str(checkpoint), "--target", "onnx", "--out", str(out)])
    image = out / "golden" / "frame_1.png"
    again = checkpoint.parent / "again"
    options = ["--frames", str(image), "--target", "onnx", "--out", str(again)]
    result = CliRunner().invoke(command.app, [str(checkpoint), *options])
    assert result.exit_code == 0, result.output
    assert [path.name for path in sorted((again / "golden").iterdir())] == ["frame_0.json", "frame_0.png"]
    assert (again / "golden" / "frame_0.png").read_bytes() == image.read_bytes()


def test_what_the_reference_scores_is_recorded_and_found_again(
    checkpoint: Path, graph: ModelProto, val_json: Path
) -> None:
    out, record = checkpoint.parent / "bundle", checkpoint.parent / "record.json"
    options = ["--target", "onnx", "--val", str(val_json), "--out", str(out)]
    result = CliRunner().invoke(command.app, [str(checkpoint), *options])
    assert result.exit_code == 0, result.output
    accuracy = open_bundle(out).manifest.accuracy
    assert accuracy is not None and accuracy.images == 6
    assert accuracy.masks.ap == pytest.approx(1.0, abs=0.01)  # its own detections are the truth
    result = CliRunner().invoke(
        verify.app, [str(out), "--data", str(val_json), "--max-drop", "0.01", "--json", str(record)]
    )
    assert result.exit_code == 0, result.output
    assert abs(json.loads(record.read_text())["data"]["masks"]["difference"]) < 0.01


def test_bisect_shows_where_it_departs_although_the_gate_fails(checkpoint: Path, graph: ModelProto) -> None:
    perturb(graph, "rpn_head.rpn_reg.weight", 1.2)
    out = checkpoint.parent / "bundle"
    result = CliRunner().invoke(command.app, [str(checkpoint), "--target", "onnx", "--out", str(out), "--bisect"])
    assert isinstance(result.exception, ParityError)
    assert "first to depart: rpn_reg.0" in result.output
    assert not out.exists()


def test_int8_says_what_it_was_calibrated_on(checkpoint: Path, graph: ModelProto) -> None:
    frames, out = checkpoint.parent / "scenes", checkpoint.parent / "bundle"
    frames.mkdir()
    for number, frame in enumerate(scene_frames(4, (64, 96))):
        assert cv2.imwrite(str(frames / f"{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    options = ["--precision", "int8", "--calib", str(frames), "--samples", "3"]
    with pytest.warns(UserWarning, match="3 calibration frames are few"):
        result = CliRunner().invoke(command.app, [str(checkpoint), "--target", "onnx", "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    assert "calibrate on 3 frames" in result.output and "int8 layers" in result.output
    record = open_bundle(out).manifest.quantization
    assert record is not None and (record.frames, record.source) == (3, "scenes")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "65", "96"], "65"),
        (["--frames", "missing"], "missing"),
        (["--precision", "bf16"], "bf16"),
        (["--precision", "int8"], "--calib"),
        (["--precision", "fp16"], "--calib"),
        (["--calib", "missing"], "no frames at missing"),
        (["--precision", "int8", "--calib", "FOLDER", "--max-drop", "0.01"], "--val"),
        (["--precision", "int8", "--calib", "FOLDER", "--max-drop", "0.01", "--val", "missing"], "--val missing"),
        (["--precision", "int8", "--calib", "FOLDER", "--max-drop", "0.1"], "--max-drop needs --val"),
        (["--val", "missing"], "there is no annotation file at --val missing"),
        (["--precision", "int8", "--calib", "FOLDER", "--sensitivity", "report.pdf"], "must end in .html"),
        (["--sensitivity", "report.html"], "--calib"),
        (["--calib", "FOLDER"], "fp32 needs no calibration"),
    ],
)
def test_unusable_options_are_refused(checkpoint: Path, options: list[str], message: str) -> None:
    out = checkpoint.parent / "bundle"
    frames = checkpoint.parent / "frames"
    frames.mkdir()
    for number, frame in enumerate(scene_frames(2, (64, 96))):
        assert cv2.imwrite(str(frames / f"{number}.png"), frame)
    options = [str(frames) if option == "FOLDER" else option for option in options]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that two frames are few
        result = CliRunner().invoke(command.app, [str(checkpoint), "--target", "onnx", "--out", str(out), *options])
    assert result.exception is not None and message in str(result.exception)
    assert not out.exists()


def test_an_occupied_folder_is_left_alone(checkpoint: Path, graph: ModelProto) -> None:
    result = CliRunner().invoke(command.app, [str(checkpoint), "--target", "onnx", "--out", str(checkpoint.parent)])
    assert isinstance(result.exception, InputError) and "not a bundle" in str(result.exception)


def test_errors_end_with_a_message_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["rs4d-export", "no-such-model", "--target", "onnx", "--out", str(tmp_path / "bundle")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 1
    assert "error:" in capsys.readouterr().err
