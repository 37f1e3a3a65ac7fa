"""A run begun from other weights takes what fits and says what is new."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from rs4d_edge.errors import CheckpointError
from rs4d_edge.reference.checkpoints import save_checkpoint
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.training.warm_start import warm_start
from tests.reference.tiny_detector import TINY


def test_other_classes_keep_everything_but_the_class_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    old = RS4D(TINY)
    path = tmp_path / "old.safetensors"
    save_checkpoint(old, path)
    new = RS4D(TINY.model_copy(update={"classes": ("a", "b", "c", "d")}))
    drawn = new.roi_head.bbox_head.fc_cls.weight.clone()
    begun = warm_start(new, path)
    assert {name.rsplit(".", 1)[0] for name in begun.new} == {
        "roi_head.bbox_head.fc_cls",
        "roi_head.bbox_head.fc_reg",
        "roi_head.mask_head.conv_logits",
    }
    assert len(begun.taken) + len(begun.new) == len(new.state_dict())
    assert torch.equal(new.roi_head.bbox_head.fc_cls.weight, drawn)
    for name in begun.taken:
        assert torch.equal(new.state_dict()[name], old.state_dict()[name]), name


def test_an_encoder_alone_becomes_the_backbone(tmp_path: Path) -> None:
    encoder = RSMamba(TINY.encoder)
    path = save_checkpoint(encoder, tmp_path / "encoder.safetensors")
    model = RS4D(TINY)
    begun = warm_start(model, path)
    assert all(name.startswith("backbone.") for name in begun.taken)
    assert torch.equal(model.backbone.pos_embed, encoder.pos_embed)
    assert not any(name.startswith("backbone.") for name in begun.new)


def test_a_position_embedding_of_another_size_is_resized(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = RSMamba(TINY.encoder.model_copy(update={"image_size_hw": (64, 128)}))
    path = save_checkpoint(encoder, tmp_path / "encoder.safetensors")
    model = RS4D(TINY)
    begun = warm_start(model, path)
    assert "backbone.pos_embed" in begun.taken
    assert torch.equal(model.backbone.pos_embed, encoder.position(TINY.encoder.grid_hw))


def test_a_stranger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match="no weight that fits custom"):
        warm_start(RS4D(TINY), path)
