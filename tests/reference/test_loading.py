"""Loading by name, from our checkpoints, and from published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rs4d_edge.errors import CheckpointError, InputError
from rs4d_edge.reference import load
from rs4d_edge.reference.checkpoints import save_checkpoint
from rs4d_edge.reference.config import HeadType
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.encoder import RSMamba
from tests.reference.tiny_detector import TINY, scene


def test_our_checkpoint_gives_the_same_model(tmp_path: Path) -> None:
    model = RS4D(TINY).eval()
    restored = load(save_checkpoint(model, tmp_path / "tiny.safetensors"))
    assert restored.config == TINY
    assert not restored.training
    frame, valid_hw, _ = scene()
    with torch.no_grad():
        for ours, theirs in zip(restored(frame, valid_hw), model(frame, valid_hw), strict=True):
            assert torch.equal(ours, theirs)


def test_classes_can_be_renamed_but_not_recounted(tmp_path: Path) -> None:
    path = save_checkpoint(RS4D(TINY), tmp_path / "tiny.safetensors")
    assert load(path, classes=("a", "b", "c")).contract.classes == ("a", "b", "c")
    with pytest.raises(CheckpointError, match=r"3 classes .* but 2 were named"):
        load(path, classes=("a", "b"))


def test_a_preset_without_weights_is_refused() -> None:
    with pytest.raises(InputError, match="preset without trained weights"):
        load("rs4d-huge-prompt")


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="no trained weights named 'rs5d'"):
        load("rs5d")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pth does not exist"):
        load(tmp_path / "gone.pth")


def test_an_encoder_alone_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(RSMamba(TINY.encoder), tmp_path / "encoder.safetensors")
    with pytest.raises(CheckpointError, match="holds an encoder alone"):
        load(path)


@pytest.mark.parametrize("head", list(HeadType))
def test_published_checkpoints(fixtures_dir: Path, head: HeadType) -> None:
    model = load(fixtures_dir / f"detector_{head.value}.fp16.pth")
    assert model.config.head is head
    assert model.config.encoder.depth == 6
    assert model.config.encoder.image_size_hw == (512, 512)
    assert len(model.config.classes) == 10
