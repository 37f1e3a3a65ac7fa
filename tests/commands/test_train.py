from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rs4d_edge.commands import train as command
from rs4d_edge.commands.train import app
from rs4d_edge.errors import DataError, InputError
from rs4d_edge.reference import load
from tests.training.test_trainer import CONFIG
from tests.training.tiny_data import write_tiny_coco


def fails(*arguments: str) -> BaseException:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code != 0
    assert result.exception is not None
    return result.exception


def test_an_unknown_preset_names_the_nearest(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    data = ("--annotations", str(annotations), "--images", str(images), "--epochs", "1")
    error = fails("--out", str(tmp_path / "out"), "--preset", "rs4d-edge-nno-bbox", *data)
    assert isinstance(error, InputError)
    assert "did you mean rs4d-edge-nano-bbox" in str(error)
    assert not (tmp_path / "out").exists()


def test_missing_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RS4D_DATA", raising=False)
    out = ("--out", str(tmp_path / "out"), "--epochs", "1")
    assert "set RS4D_DATA" in str(fails(*out))
    absent = fails(*out, "--data", str(tmp_path / "absent"))
    assert isinstance(absent, DataError)
    assert str(tmp_path / "absent" / "train.json") in str(absent)
    assert "give both" in str(fails(*out, "--annotations", "a.json"))
    assert "give both or neither" in str(fails(*out, "--val-images", "images"))
    assert isinstance(fails(*out, "--whu", str(tmp_path)), DataError)


def test_lengths_and_sizes_that_contradict_are_refused(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    data = ("--out", str(tmp_path / "out"), "--annotations", str(annotations), "--images", str(images))
    assert "exactly one of epochs and max_minutes" in str(fails(*data))
    assert "SIZE:SHARE" in str(fails(*data, "--epochs", "1", "--sizes", "500"))


def test_settings_can_be_seen_before_they_are_used(tmp_path: Path) -> None:
    """Options and assignments go over the recipe."""
    annotations, images = write_tiny_coco(tmp_path)
    data = ("--out", str(tmp_path / "out"), "--annotations", str(annotations), "--images", str(images))
    options = ("--recipe", "nwpu", "--lr", "0.5", "--set", "layer_decay=0.75", "--set", "augment.mosaic=0", "--show")
    result = CliRunner().invoke(app, [*data, *options])
    assert result.exit_code == 0, result.exception
    shown = yaml.safe_load(result.stdout)
    assert (shown["epochs"], shown["lr"], shown["layer_decay"], shown["augment"]["mosaic"]) == (60, 0.5, 0.75, 0)
    assert shown["augment"]["fit_size"] == 640
    assert not (tmp_path / "out").exists()
    assert "did you mean layer_decay" in str(fails(*data, "--set", "layer_deca=1"))
    assert "--image-size 100 does not fit" in str(fails(*data, "--image-size", "100"))
    assert "give one" in str(fails(*data, "--init", "a", "--grow", "b"))


def test_rounding_is_learnt_by_a_short_schedule_from_a_trained_model(tmp_path: Path) -> None:
    """Its recipe goes over the data set's, and the model has to be there as a whole."""
    annotations, images = write_tiny_coco(tmp_path)
    data = ("--out", str(tmp_path / "out"), "--annotations", str(annotations), "--images", str(images), "--qat")
    result = CliRunner().invoke(app, [*data, "--recipe", "nwpu", "--ema-decay", "0.5", "--show"])
    assert result.exit_code == 0, result.exception
    shown = yaml.safe_load(result.stdout)
    assert (shown["qat"], shown["epochs"], shown["precision"], shown["ema_decay"]) == (True, 4, "32-true", 0.5)
    assert shown["augment"]["scale_range"] == [0.6, 1.5]
    error = fails(*data)
    assert isinstance(error, InputError) and "give it with --init" in str(error)
    other_classes = fails(*data, "--init", "rs4d-edge-nano-bbox")
    assert isinstance(other_classes, InputError) and "has no roi_head.bbox_head.fc_cls.weight" in str(other_classes)
    assert "mask_head.detail" not in str(other_classes)  # in the preset, and not in these older weights


def test_an_error_is_one_line_and_says_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets in a message are no markup."""
    strange = tmp_path / "[bold]data"
    monkeypatch.setattr(sys, "argv", ["rs4d-train", "--out", str(tmp_path), "--epochs", "1", "--data", str(strange)])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 1
    printed = capsys.readouterr().err
    assert str(strange) in printed
    assert len(printed.strip().splitlines()) == 1


def test_a_run_leaves_weights_that_load_and_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations, images = write_tiny_coco(tmp_path)

    def tiny(_: str) -> Any:
        return CONFIG

    monkeypatch.setattr(command, "preset", tiny)
    monkeypatch.setattr(command, "stop_on_signals", lambda *_: None)  # leave pytest's own handlers alone
    out = tmp_path / "out"
    files = ("--annotations", str(annotations), "--images", str(images))
    own = ("--val-annotations", str(annotations), "--val-images", str(images))
    options = ("--epochs", "1", "--batch", "2", "--sizes", "64", "--evaluations", "1", "--warmup", "1")
    result = CliRunner().invoke(app, ["--out", str(out), *files, *own, *options])
    assert result.exit_code == 0, result.exception
    assert load(out / "best.safetensors").config.classes == ("square", "bar")
    assert "`annotations.json`, 4 images" in (out / "model_card.md").read_text()
    page = (out / "report.html").read_text()
    assert 'id="plot-confusion"' in page
    assert '<a href="model_card.md">' in page
