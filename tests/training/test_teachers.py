"""Our own encoders as teachers, the resize before them, and what `open_teacher` says of what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rs4d_edge.errors import CheckpointError, InputError
from rs4d_edge.reference.checkpoints import save_checkpoint
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.resize import FrameResizer
from rs4d_edge.training.teachers import (
    Preprocessing,
    normalise,
    normalised_channels,
    open_teacher,
    picture_mask,
    spread_layers,
    weights_fingerprint,
)
from tests.reference.tiny_detector import TINY, scene
from tests.training.tiny_distillation import PAPER_STUDENT


def test_a_detector_and_its_encoder_alone_are_one_teacher(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = RS4D(TINY).eval()
    whole = open_teacher(save_checkpoint(detector, tmp_path / "whole.safetensors"))
    alone = open_teacher(save_checkpoint(detector.backbone, tmp_path / "alone.safetensors"))
    assert whole.fingerprint == alone.fingerprint
    assert (whole.name, whole.grid_hw, whole.channels, whole.depth) == ("whole.safetensors", (6, 6), 32, 2)
    frame, valid_hw, _ = scene(2)
    image = normalise(frame, valid_hw, whole.preprocessing)
    assert torch.allclose(image, detector.normalise(frame, valid_hw), atol=1e-6)
    maps = whole.embed(image, (0,))
    with torch.no_grad():
        truth = [layer.permute(0, 3, 1, 2) for layer in detector.backbone(image).layers]
    assert torch.equal(maps[0], truth[-1])
    assert torch.equal(maps[1], normalised_channels(truth[0]))
    assert not maps[0].requires_grad


def test_a_shipped_model_and_a_published_file_can_teach(fixtures_dir: Path) -> None:
    shipped = open_teacher("rs4d-edge-nano-bbox")
    assert (shipped.grid_hw, shipped.channels, shipped.preprocessing.side) == ((40, 40), 128, 640)
    published = open_teacher(fixtures_dir / "encoder_small.pth")
    prefixed = open_teacher(fixtures_dir / "encoder_small.module_prefix.pth")
    assert (published.channels, published.depth) == (64, 4)
    assert published.fingerprint == prefixed.fingerprint != shipped.fingerprint


def test_a_fingerprint_knows_every_weight_and_the_configuration() -> None:
    state = {"a": torch.zeros(2, 2), "b": torch.ones(3)}
    changed = {"a": state["a"].clone(), "b": state["b"].clone()}
    assert weights_fingerprint(changed, "c") == weights_fingerprint(state, "c")
    changed["b"][2] += 1e-6
    others = [
        weights_fingerprint(changed, "c"),
        weights_fingerprint(state, "d"),
        weights_fingerprint({"a": state["a"].view(4), "b": state["b"]}, "c"),
        weights_fingerprint({"a": state["b"], "b": state["a"]}, "c"),
    ]
    assert len({*others, weights_fingerprint(state, "c")}) == 5


def test_what_is_no_teacher_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no teacher 'nobody'.*rs4d-edge-nano-bbox"):
        open_teacher("nobody")
    with pytest.raises(CheckpointError, match=r"absent\.pth does not exist"):
        open_teacher(tmp_path / "absent.pth")
    with pytest.raises(InputError, match=r"config\.json cannot be read.*save_pretrained"):
        open_teacher(tmp_path)
    wide = PAPER_STUDENT.model_copy(update={"image_size_hw": (64, 128)})
    with pytest.raises(InputError, match="64x128 pixels: a teacher's input must be square"):
        open_teacher(save_checkpoint(RSMamba(wide), tmp_path / "wide.safetensors"))
    broken = RSMamba(PAPER_STUDENT)
    torch.nn.init.constant_(broken.ln1.weight, float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        open_teacher(save_checkpoint(broken, tmp_path / "broken.safetensors"))


@pytest.mark.parametrize("size_hw", [(48, 64), (200, 130), (64, 64), (30, 20)])
def test_without_antialias_the_resize_is_the_device_s(size_hw: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size_hw, 3), dtype=np.uint8)
    frame, valid_hw = Preprocessing(side=64).frame(image)
    resizer = FrameResizer((64, 64))
    assert resizer(image, "RGB").valid_hw == valid_hw
    assert np.array_equal(frame, resizer.batch[0])


def test_a_cell_holds_picture_where_its_centre_does() -> None:
    cells = picture_mask(torch.tensor([[32, 64], [41, 39]]), (4, 4), 16)
    assert cells.sum((1, 2)).tolist() == [2 * 4, 3 * 2]
    assert bool(cells[1, 2, 1])
    assert not bool(cells[1, 2, 2])


def test_layers_are_spread_over_the_depth_before_the_last() -> None:
    assert spread_layers(12, 3) == (2, 5, 8)
    assert spread_layers(4, 1) == (1,)
    assert spread_layers(24, 0) == ()
    with pytest.raises(InputError, match="ask for fewer"):
        spread_layers(4, 4)
