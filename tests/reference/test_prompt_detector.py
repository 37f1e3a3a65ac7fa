"""The whole detector with the prompt head: shapes, losses, a training step, and the published fixture's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rs4d_edge.reference import load
from rs4d_edge.reference.config import (
    DetectorConfig,
    EncoderConfig,
    HeadType,
    NeckConfig,
    NeckType,
    PromptConfig,
    ProposalConfig,
    RoIConfig,
)
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.targets import Target

SIDE = 96
PUBLISHED = DetectorConfig(
    head=HeadType.PROMPT,
    classes=("ship", "tank"),
    encoder=EncoderConfig(channels=32, depth=3, inner_channels=32, state_size=4, image_size_hw=(SIDE, SIDE)),
    neck=NeckConfig(layers=(1, 2), hidden_channels=8, channels=16),
    proposals=ProposalConfig(scales=(4.0, 8.0), channels=16, pre_nms=50, proposals=20),
    roi=RoIConfig(fc_channels=32),
    prompt=PromptConfig(decoder_heads=4, mlp_channels=32, iou_head_channels=16),
    max_detections=6,
)
EDGE = DetectorConfig(
    head=HeadType.PROMPT,
    classes=("ship", "tank"),
    encoder=PUBLISHED.encoder.model_copy(update={"stem_channels": (4, 8, 16)}),
    neck=NeckConfig(type=NeckType.EDGE, layers=(), channels=16),
    proposals=ProposalConfig(strides=(8, 16, 32, 64), scales=(2.0, 4.0), channels=16, pre_nms=50, proposals=20),
    roi=RoIConfig(strides=(8, 16, 32), fc_channels=32),
    prompt=PUBLISHED.prompt,
    max_detections=6,
)


def _frames() -> tuple[torch.Tensor, torch.Tensor]:
    """Two noise frames; the second has eight rows of padding."""
    return torch.randint(0, 256, (2, SIDE, SIDE, 3), dtype=torch.uint8), torch.tensor([[SIDE, SIDE], [SIDE - 8, SIDE]])


def _target() -> Target:
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, 10:40, 20:44] = True
    masks[1, 50:66, 60:90] = True
    boxes = torch.tensor([[20.0, 10.0, 44.0, 40.0], [60.0, 50.0, 90.0, 66.0]])
    return Target(boxes, torch.tensor([0, 1]), masks)


@pytest.mark.parametrize("config", [PUBLISHED, EDGE], ids=["published", "edge"])
def test_masks_cover_the_input_at_a_quarter_of_its_size(config: DetectorConfig) -> None:
    model = RS4D(config.model_copy(update={"score_threshold": 0.0})).eval()
    with torch.no_grad():
        found = model(*_frames())
    assert found.boxes.shape == (2, 6, 4)
    assert found.masks.shape == (2, 6, SIDE // 4, SIDE // 4)
    real = found.scores > 0
    assert real.any()
    assert ((found.masks[real] > 0) & (found.masks[real] < 1)).all()
    assert not found.masks[~real].any()


def test_masks_of_an_image_do_not_depend_on_its_batch() -> None:
    model = RS4D(PUBLISHED.model_copy(update={"score_threshold": 0.0})).eval()
    frames, valid_hw = _frames()
    with torch.no_grad():
        together = model(frames, valid_hw)
        alone = model(frames[1:], valid_hw[1:])
    torch.testing.assert_close(together.scores[1], alone.scores[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.masks[1], alone.masks[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [PUBLISHED, EDGE], ids=["published", "edge"])
def test_training_steps_lower_the_mask_loss(config: DetectorConfig) -> None:
    model = RS4D(config).train()
    frames, valid_hw = _frames()
    targets = [_target(), Target(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0, SIDE, SIDE).bool())]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    history = []
    for step in range(6):
        losses = model.losses(frames, valid_hw, targets, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        optimizer.step()
        history.append(losses["mask"].item())
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    for part in ("backbone.", "roi_head.mask_head.point_emb.", "roi_head.mask_head.mask_decoder."):
        learned = [parameter.grad for name, parameter in model.named_parameters() if name.startswith(part)]
        assert any(grad is not None and grad.any() for grad in learned), part
    assert min(history[3:]) < history[0]


def test_images_without_objects_have_a_finite_loss() -> None:
    model = RS4D(PUBLISHED).train()
    empty = Target(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0, SIDE, SIDE).bool())
    losses = model.losses(*_frames(), [empty, empty])
    assert losses["mask"].item() == 0.0
    torch.autograd.backward(torch.stack(list(losses.values())).sum())


def test_published_weights_load_and_run(fixtures_dir: Path) -> None:
    model = load(fixtures_dir / "detector_prompt.fp16.pth").eval()
    assert model.config.head is HeadType.PROMPT
    assert model.config.proposals.scales == (4.0, 8.0)
    assert model.config.neck.layers == (2, 4)
    frame = torch.randint(0, 256, (1, 128, 128, 3), dtype=torch.uint8)
    with torch.no_grad():
        found = model(frame, torch.tensor([[128, 128]]))
    count = int((found.scores[0] > 0).sum())
    assert count > 0
    assert found.masks.shape == (1, model.config.max_detections, 32, 32)
    assert found.masks.isfinite().all()
    assert found.masks[0, :count].std() > 0
