"""A prompt head begun as SAM's box prompts holds the encoding of corners, and compares places by it."""

from __future__ import annotations

import math

import pytest
import torch

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import DetectorConfig, HeadType, PromptConfig
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.losses import LossSettings
from rs4d_edge.reference.mask_losses import BOX_VALUES, box_prompt_loss
from rs4d_edge.reference.presets import PRESETS
from rs4d_edge.reference.prompt_head import PromptMaskHead
from rs4d_edge.training.prompt_start import start_as_box_prompts
from tests.reference.tiny_detector import TINY, scene

PROMPT = TINY.model_copy(
    update={
        "head": HeadType.PROMPT,
        "prompt": PromptConfig(sincos=True, decoder_heads=4, mlp_channels=32, iou_head_channels=16),
    }
)
BOXES = torch.tensor([[0.1, 0.2, 0.5, 0.3], [0.0, 0.6, 1.0, 0.9]])


def _begun() -> tuple[RS4D, PromptMaskHead]:
    torch.manual_seed(0)
    model = RS4D(PROMPT)
    start_as_box_prompts(model)
    head = model.roi_head.mask_head
    assert isinstance(head, PromptMaskHead)
    return model, head


def test_coordinates_become_the_encoding_of_the_boxes_corners() -> None:
    model, head = _begun()
    assert model.shared_image_embedding is not None
    matrix = model.shared_image_embedding.shared_image_embedding.positional_embedding
    hidden = torch.zeros(len(BOXES), PROMPT.encoder.channels)
    hidden[:, :BOX_VALUES] = BOXES
    with torch.no_grad():
        embeddings = head.point_emb.embed(hidden)
        content = head.point_emb[-1](hidden).view(len(BOXES), 5, -1)[..., 1::2]  # an embedding is sin(even) + odd
    for corner in range(2):
        phase = 2 * math.pi * (2 * BOXES[:, 2 * corner : 2 * corner + 2] - 1) @ matrix
        expected = torch.cat([phase.sin(), phase.cos()], dim=1)
        torch.testing.assert_close(embeddings[:, corner] - content[:, corner], expected, atol=1e-4, rtol=0)


def test_a_place_is_most_like_itself() -> None:
    model, head = _begun()
    assert model.shared_image_embedding is not None
    positions = model.shared_image_embedding((6, 6))[0]
    attention = head.mask_decoder.mask_decoder.transformer.final_attn_token_to_image
    with torch.no_grad():
        scores = attention.q_proj(positions) @ attention.k_proj(positions).t()
    assert (scores.diagonal().mean() - scores.mean()) > 2 * scores.std()
    fresh = RS4D(PROMPT).roi_head.mask_head
    assert isinstance(fresh, PromptMaskHead)
    drawn = fresh.mask_decoder.mask_decoder.transformer.final_attn_token_to_image
    with torch.no_grad():
        scores = drawn.q_proj(positions) @ drawn.k_proj(positions).t()
    assert (scores.diagonal().mean() - scores.mean()) < scores.std()


def test_the_loss_is_the_distance_in_shares_of_the_sides() -> None:
    boxes = torch.tensor([[20.0, 10.0, 60.0, 30.0]])  # of an input 50 high and 100 wide
    hidden = torch.tensor([[0.2, 0.2, 0.5, 0.6, 9.0]])
    assert box_prompt_loss(hidden, boxes, (50, 100)).item() == pytest.approx(0.1 / 4)
    assert box_prompt_loss(hidden[:0], boxes[:0], (50, 100)).item() == 0.0


def test_boxes_are_learnt_where_the_settings_ask_for_it() -> None:
    model, _ = _begun()
    model.train()
    frame, valid_hw, targets = scene(batch=2)
    assert "prompt_box" not in model.losses(frame, valid_hw, targets)
    settings = LossSettings.of(PROMPT)._replace(box_prompts=2.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for step in range(30):
        generator = torch.Generator().manual_seed(step)
        losses = model.losses(frame, valid_hw, targets, settings=settings, generator=generator)
        optimizer.zero_grad()
        torch.autograd.backward(list(losses.values()))
        optimizer.step()
        history.append(losses["prompt_box"].item())
    assert sum(history[-5:]) < 0.6 * sum(history[:5])


def test_fewer_regions_learn_masks_than_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, head = _begun()
    frame, valid_hw, targets = scene(batch=2)
    seen: list[int] = []
    hidden = head.point_emb.hidden

    def counted(rois: torch.Tensor) -> torch.Tensor:
        seen.append(len(rois))
        return hidden(rois)

    monkeypatch.setattr(head.point_emb, "hidden", counted)
    for most in (None, 3, 1):
        model.losses(frame, valid_hw, targets, settings=LossSettings.of(PROMPT)._replace(mask_regions=most))
    assert seen[0] >= 4  # the two objects of both images at least
    assert seen[1:] == [3, 1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TINY, "another one"),
        (PROMPT.model_copy(update={"prompt": PromptConfig(sincos=False, mlp_channels=32)}), "sincos False"),
    ],
)
def test_a_head_that_cannot_hold_it_is_refused(config: DetectorConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        start_as_box_prompts(RS4D(config))


def test_the_edge_family_can_hold_it_and_the_papers_models_stay_as_published() -> None:
    for name, config in PRESETS.items():
        if config.prompt is not None:
            assert config.prompt.sincos == name.startswith("rs4d-edge-"), name
