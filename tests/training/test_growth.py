"""A grown model begins by seeing what the smaller one sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rs4d_edge.errors import CheckpointError
from rs4d_edge.reference.checkpoints import save_checkpoint
from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.training.growth import grow
from tests.reference.tiny_detector import TINY, scene

LARGER: dict[str, dict[str, Any]] = {
    "encoder": {"depth": 5, "inner_channels": 48, "stem_channels": (12, 24, 20), "stem_blocks": (1, 1)},
    "neck": {"channels": 48},
    "proposals": {"channels": 48},
    "roi": {"fc_channels": 80},
}


def larger(**changes: dict[str, Any]) -> DetectorConfig:
    fields = TINY.model_dump()
    for part, values in changes.items():
        fields[part] |= values
    return DetectorConfig.model_validate(fields)


def trained(path: Path, config: DetectorConfig = TINY) -> tuple[RS4D, Path]:
    """A model whose norms and mixers are far from their start, in a file."""
    torch.manual_seed(0)
    model = RS4D(config)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and ("norm" in name or "ln1" in name or ".1." in name or "A_log" in name):
                value.mul_(torch.rand_like(value) + 0.5)
    return model.eval(), save_checkpoint(model, path)


def maps(model: RS4D) -> list[torch.Tensor]:
    """Levels of the neck and outputs of the RPN, then class logits of some boxes."""
    frame, valid_hw, _ = scene()
    with torch.inference_mode():
        model.eval()
        levels = model.neck(model.backbone(frame.permute(0, 3, 1, 2).float() / 64 - 2))
        rpn = model.rpn_head(levels)
        boxes = torch.tensor([[[10.0, 12.0, 42.0, 36.0], [0.0, 0.0, 90.0, 80.0]]])
        pooled = model.roi_head.pool(levels, boxes, TINY.roi.box_size)
        logits, deltas = model.roi_head.bbox_head(pooled)
        masks = model.roi_head.mask_head(model.roi_head.pool(levels, boxes, TINY.roi.mask_size))
    assert int(valid_hw[0, 1]) == frame.shape[2]
    return [*(level[:, : TINY.neck.channels] for level in levels), *rpn.cls, *rpn.reg, logits, deltas, masks]


@pytest.mark.parametrize("channels", [TINY.encoder.channels, 2 * TINY.encoder.channels])
def test_nothing_changes_where_every_channel_is_kept_or_repeated_once(tmp_path: Path, channels: int) -> None:
    """Then the norms' statistics are the same, and growth is exact."""
    small, path = trained(tmp_path / "small.safetensors")
    torch.manual_seed(1)
    model = RS4D(larger(**(LARGER | {"encoder": LARGER["encoder"] | {"channels": channels}})))
    begun = grow(model, path)
    for before, after in zip(maps(small), maps(model), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    assert "backbone.pos_embed" in begun.taken
    assert "backbone.layers.1.in_proj.weight" in begun.new  # two old layers among five
    assert "backbone.layers.2.in_proj.weight" in begun.taken


def test_some_repeated_channels_change_little(tmp_path: Path) -> None:
    small, path = trained(tmp_path / "small.safetensors")
    torch.manual_seed(1)
    model = RS4D(larger(**(LARGER | {"encoder": LARGER["encoder"] | {"channels": 48}})))
    drawn = maps(model)
    grow(model, path)
    for before, after, other in zip(maps(small), maps(model), drawn, strict=True):
        assert (after - before).norm() < 0.3 * (other - before).norm()


def test_what_is_new_learns(tmp_path: Path) -> None:
    """A new channel is read with weight 0, and copies have different weights: both get gradients of their own."""
    _, path = trained(tmp_path / "small.safetensors")
    torch.manual_seed(1)
    model = RS4D(larger(encoder={"channels": 64}, neck={"channels": 48}, proposals={"channels": 48}))
    grow(model, path)
    frame, valid_hw, targets = scene()
    model.train()
    total = torch.stack(list(model.losses(frame, valid_hw, targets).values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    new = dict(model.named_parameters())["neck.lateral16.0.weight"]
    assert new.grad is not None
    assert new.grad[48 - 16 :].abs().max() == 0  # of a new channel: what reads it must learn first
    read = model.rpn_head.rpn_conv.weight
    assert read.grad is not None
    assert read.grad[:32, 32:].abs().max() > 0
    projection = model.state_dict()["backbone.layers.0.in_proj.weight"]
    assert not torch.equal(projection[:, :32], projection[:, 32:])


def test_a_head_of_another_kind_stays_as_drawn(tmp_path: Path) -> None:
    _, path = trained(tmp_path / "small.safetensors")
    model = RS4D(larger(roi={"detail_channels": 8}))
    key = "roi_head.mask_head.upsample.weight"
    drawn = model.state_dict()[key].clone()
    begun = grow(model, path)
    assert torch.equal(model.state_dict()[key], drawn)
    assert key in begun.new


def test_what_cannot_contain_the_model_is_refused(tmp_path: Path) -> None:
    _, path = trained(tmp_path / "small.safetensors")
    for changes in ({"encoder": {"depth": 1}}, {"encoder": {"channels": 80}}, {"roi": {"fc_channels": 32}}):
        with pytest.raises(CheckpointError, match="cannot grow into"):
            grow(RS4D(larger(**changes)), path)
    encoder = save_checkpoint(RSMamba(TINY.encoder), tmp_path / "encoder.safetensors")
    with pytest.raises(CheckpointError, match="no whole edge model"):
        grow(RS4D(TINY), encoder)
