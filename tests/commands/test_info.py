"""`rs4d-info`: the table, the shipped names, and what is in a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from rs4d_edge.commands import info, info_models, info_target
from rs4d_edge.devices import PRESETS as DEVICES
from rs4d_edge.errors import CheckpointError, InputError
from rs4d_edge.export.recipes import Target
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
        info_models.show_model(source, info.console)


def test_command_ends_with_one_line_and_status_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rs4d-info", "rs4d-edge-nano-bbx"])
    with pytest.raises(SystemExit) as caught:
        info.main()
    assert caught.value.code == 1
    assert "error: there is no model 'rs4d-edge-nano-bbx'; did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("name", DEVICES)
def test_a_device_is_shown_with_all_its_modules(name: str) -> None:
    output = output_of("--target", name)
    for module in DEVICES[name].modules:
        row = next(line for line in output.splitlines() if module.name in line)
        assert f"{module.memory_gb} GB" in row
        assert f"0: {module.power_modes[0]}" in row
    assert f"compute capability {DEVICES[name].compute_capability}" in output
    assert "not measured" in output


def test_every_general_target_is_one_line() -> None:
    assert set(info_target.GENERAL_TARGETS) == set(Target)
    for target, what in info_target.GENERAL_TARGETS.items():
        (line,) = output_of("--target", target.value).splitlines()
        assert line.startswith(f"{target.value}: {what}; fp")


@pytest.mark.parametrize(("name", "meant"), [("jetson-orin-nan", "did you mean 'jetson-orin-nano'"), ("tpu", "rtx")])
def test_an_unknown_target_is_refused_with_the_known_ones(name: str, meant: str) -> None:
    with pytest.raises(InputError, match=name) as caught:
        output_of("--target", name)
    assert meant in str(caught.value)
    assert all(known in str(caught.value) for known in (*DEVICES, *(target.value for target in Target)))


def test_two_questions_at_once_are_refused() -> None:
    with pytest.raises(InputError, match="one at a time"):
        output_of("rs4d-base-bbox", "--target", "onnx")


WITHOUT_TORCH = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

sys.meta_path.insert(0, Block())
sys.argv = ["rs4d-info", *sys.argv[1:]]
from rs4d_edge.commands.info import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [(("--target", "jetson-thor"), 0, "sm_110"), (("--shipped",), 1, 'pip install "rs4d-edge[export]"')],
)
def test_a_target_is_shown_without_torch_and_models_say_what_they_need(
    arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
