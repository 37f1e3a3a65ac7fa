"""SAM's mask decoder and positional encoding against Hugging Face's, with the same weights by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rs4d_edge.errors import RS4DError
from rs4d_edge.reference.config import PromptConfig
from rs4d_edge.reference.sam_decoder import FourierPositions, SamMaskDecoder, SharedImageEmbedding

GRID_HW = (4, 6)


def _pair(channels: int) -> tuple[SamMaskDecoder, Any]:
    """Our decoder and theirs with the same random weights, biases and norms included."""
    sam = pytest.importorskip("transformers.models.sam.modeling_sam")
    config = sam.SamMaskDecoderConfig(hidden_size=channels, mlp_dim=64, iou_head_hidden_dim=40)
    config._attn_implementation = "eager"
    theirs = sam.SamMaskDecoder(config).eval()
    ours = SamMaskDecoder(channels, PromptConfig(mlp_channels=64, iou_head_channels=40)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def _tokens(maps: torch.Tensor) -> torch.Tensor:
    return maps.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("channels", [32, 256])
def test_decoder_equals_hugging_face(channels: int) -> None:
    ours, theirs = _pair(channels)
    image, positions = torch.randn(1, channels, *GRID_HW), torch.randn(1, channels, *GRID_HW)
    prompts, dense = torch.randn(3, 5, channels), torch.randn(1, channels, 1, 1)
    with torch.no_grad():
        want = theirs(
            image_embeddings=image,
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=prompts.unsqueeze(0),
            dense_prompt_embeddings=dense.expand_as(image),
            multimask_output=False,
        )
        got = ours(_tokens(image + dense), _tokens(positions), prompts, GRID_HW)
    assert got.logits.shape == (3, 4 * GRID_HW[0], 4 * GRID_HW[1])
    torch.testing.assert_close(got.logits, want[0][0, :, 0], atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(got.iou, want[1][0, :, 0], atol=5e-5, rtol=1e-4)


def test_gradients_equal_hugging_face() -> None:
    ours, theirs = _pair(32)
    image, positions = torch.randn(1, 32, *GRID_HW), torch.randn(1, 32, *GRID_HW)
    prompts = torch.randn(2, 5, 32)
    theirs(image, positions, prompts.unsqueeze(0), torch.zeros_like(image), False)[0].square().sum().backward()
    ours(_tokens(image), _tokens(positions), prompts, GRID_HW).logits.square().sum().backward()
    compared = 0
    for (name, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        if other.grad is None or not other.grad.any() or name.endswith("k_proj.bias"):
            continue  # a key bias of a softmax over many keys has no gradient but rounding
        scale = float(other.grad.abs().max())
        assert mine.grad is not None, name
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4 * scale, rtol=1e-3, msg=name)
        compared += 1
    assert compared > 60


def test_positions_equal_hugging_face() -> None:
    sam = pytest.importorskip("transformers.models.sam.modeling_sam")
    theirs = sam.SamPositionalEmbedding(sam.SamVisionConfig(num_pos_feats=12, scale=1.0))
    ours = FourierPositions(24)
    ours.load_state_dict({"positional_embedding": theirs.positional_embedding.detach()})
    height, width = GRID_HW
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    want = theirs(torch.stack([x, y], dim=-1)).detach().view(1, -1, 24)
    torch.testing.assert_close(ours(GRID_HW), want, atol=1e-5, rtol=0)


def test_shared_image_embedding_has_the_published_key() -> None:
    shapes = {name: tuple(value.shape) for name, value in SharedImageEmbedding(256).state_dict().items()}
    assert shapes == {"shared_image_embedding.positional_embedding": (2, 128)}


def test_refuses_an_odd_width() -> None:
    with pytest.raises(RS4DError, match="multiple of 8"):
        SamMaskDecoder(36, PromptConfig())
    with pytest.raises(RS4DError, match="even"):
        FourierPositions(7)
