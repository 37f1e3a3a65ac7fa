from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rs4d_edge.commands import distill as command
from rs4d_edge.commands.distill import app
from rs4d_edge.errors import CheckpointError, DataError, InputError
from rs4d_edge.reference.checkpoints import load_state, save_checkpoint
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.training.unlabelled import INDEX_NAME
from tests.reference.tiny_detector import TINY
from tests.training.tiny_distillation import PAPER_STUDENT, write_pictures

STUDENT = "rs4d-edge-nano-bbox"
RUN = ("--epochs", "1", "--batch", "2", "--warmup", "1", "--precision", "32-true", "--accelerator", "cpu")


@pytest.fixture
def options(tmp_path: Path) -> dict[str, str]:
    teacher = save_checkpoint(RSMamba(PAPER_STUDENT), tmp_path / "teacher.safetensors")
    pictures = write_pictures(tmp_path / "pictures", 5)
    named = {"teacher": teacher, "student": STUDENT, "images": pictures, "out": tmp_path / "out"}
    return {f"--{name}": str(value) for name, value in named.items()}


def invoke(options: dict[str, str], *more: str) -> Any:
    return CliRunner().invoke(app, [*(word for pair in options.items() for word in pair), *RUN, *more])


def fails(options: dict[str, str], *more: str) -> BaseException:
    result = invoke(options, *more)
    assert result.exit_code != 0
    assert isinstance(result.exception, BaseException)
    return result.exception


def test_a_run_leaves_an_encoder_a_card_and_its_figures(
    options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tiny(_: str) -> Any:
        return TINY

    monkeypatch.setattr(command, "preset", tiny)
    monkeypatch.setattr(command, "stop_on_signals", lambda *_: None)  # leave pytest's own handlers alone
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"no picture")
    image = {"id": 1, "file_name": "x/4.png", "height": 48, "width": 64}
    (tmp_path / "val.json").write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    chosen = ["--corruption", "0.1:0.2", "--holdout", "0.25", "--cosine", "0.5", "--no-turns"]
    chosen += ["--cache", str(tmp_path / "cache"), "--leave-out", str(tmp_path / "val.json")]
    result = invoke(options, *chosen)
    assert result.exit_code == 0, result.exception
    assert "1 files cannot be read and are left out" in result.output
    assert "4 entries of 512 B" in result.output  # 16 channels on 4 by 4 cells in float16
    out = tmp_path / "out"
    assert load_state(out / "encoder.safetensors")[1] == TINY.encoder
    card = (out / "model_card.md").read_text()
    assert "3 to learn from, 1 kept apart" in card
    assert "fixed noise 0.1 and mask 0.2" in card
    held_out = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][-1]
    assert f"| {held_out['l1']:.4f} |" in card
    assert (out / INDEX_NAME).is_file()
    again = invoke(options, *chosen, "--resume")
    assert again.exit_code == 0, again.exception
    assert "4 there, 0 (0 B) to compute" in again.output


def test_what_was_typed_wrong_is_named_before_anything_is_written(options: dict[str, str], tmp_path: Path) -> None:
    error = fails({**options, "--student": "rs4d-edge-nno-bbox"})
    assert "did you mean rs4d-edge-nano-bbox" in str(error)
    assert "as in 0.1:0.2" in str(fails(options, "--corruption", "much"))
    assert "exactly one of epochs and max_minutes" in str(fails(options, "--max-minutes", "3"))
    assert "precision" in str(fails(options, "--precision", "8-bit"))
    assert "cosine" in str(fails(options, "--cosine", "-1"))
    teacher = fails({**options, "--teacher": str(tmp_path / "pictures")})
    assert isinstance(teacher, InputError)
    assert "config.json cannot be read" in str(teacher)
    assert isinstance(fails({**options, "--teacher": str(tmp_path / "absent.pth")}), CheckpointError)
    assert not (tmp_path / "out").exists()


def test_pictures_that_are_not_there_are_named(options: dict[str, str], tmp_path: Path) -> None:
    absent = fails({**options, "--images": str(tmp_path / "absent")})
    assert isinstance(absent, DataError)
    assert "absent does not exist" in str(absent)
    (tmp_path / "none").mkdir()
    assert "no image in" in str(fails({**options, "--images": str(tmp_path / "none")}))


def test_the_command_prints_one_line_for_a_deliberate_error(
    options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for pair in {**options, "--teacher": "nobody"}.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["rs4d-distill", *words, *RUN])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 1
    printed = capsys.readouterr().err
    assert "there is no teacher 'nobody'" in printed
    assert len(printed.strip().splitlines()) == 1
