"""`rs4d-info`: the table, the shipped names, and what is in a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from rs4d_edge.commands import info
from rs4d_edge.errors import CheckpointError, InputError
from rs4d_edge.reference import shipped
from rs4d_edge.reference.checkpoints import save_checkpoint
from rs4d_edge.reference.config import EncoderConfig
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.reference.presets import PRESETS

TINY = EncoderConfig(channels=16, depth=2, inner_channels=32, state_size=4, image_size_hw=(32, 48))


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info.console, "_width", 200)


def output_of(*arguments: str) -> str:
    result = CliRunner().invoke(info.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_table_shows_every_preset_and_the_claim_beside_the_count() -> None:
    lines = output_of().splitlines()
    for name in PRESETS:
        assert any(name in line for line in lines)
    base = next(line for line in lines if "ViT-B" in line)
    for figure in ("89.7", "972", "11.75", "7.6x", "9.3x"):
        assert figure in base
    assert any("The paper claims 8x fewer parameters, 9x fewer FLOPs" in line for line in lines)


def test_shipped_names_one_a_line_default_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    for name in ("rs4d-edge-nano-bbox", "rs4d-edge-a"):
        (tmp_path / f"{name}.safetensors").touch()
    assert output_of("--shipped") == "rs4d-edge-nano-bbox\nrs4d-edge-a\n"


def test_file_shows_configuration_and_metadata(tmp_path: Path) -> None:
    path = save_checkpoint(RSMamba(TINY), tmp_path / "encoder.safetensors", {"distilled_from": "[ViT-B]"})
    output = output_of(str(path))
    for part in ("configuration stored in it", "2 layers, C 16, E 32, N 4", "32x48", "distilled_from", "[ViT-B]"):
        assert part in output
    assert "rs4d_config" not in output


def test_torch_file_shows_what_is_inferred(tmp_path: Path) -> None:
    model = RSMamba(TINY.model_copy(update={"image_size_hw": (48, 48)}))
    torch.save(model.state_dict(), tmp_path / "encoder.pth")
    output = output_of(str(tmp_path / "encoder.pth"))
    assert "configuration inferred from its keys and shapes" in output
    assert "48x48" in output


def test_preset_shows_its_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    output = output_of("rs4d-base-bbox")
    assert "preset without weights" in output
    assert "of which encoder 11.75 M" in output


@pytest.mark.parametrize(("source", "error"), [("rs4d-edge", InputError), ("absent.pth", CheckpointError)])
def test_unknown_sources_say_what_there_is(source: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=source):
        info.show_model(source)


def test_command_ends_with_one_line_and_status_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rs4d-info", "rs4d-edge-nano-bbx"])
    with pytest.raises(SystemExit) as caught:
        info.main()
    assert caught.value.code == 1
    assert "error: there is no model 'rs4d-edge-nano-bbx'; did you mean" in capsys.readouterr().err
