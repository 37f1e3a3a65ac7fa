"""SAM's attention forms against the plain one, and the two-way transformer against Hugging Face's."""

from __future__ import annotations

import pytest
import torch

from rs4d_edge.errors import RS4DError
from rs4d_edge.reference.sam_attention import SamAttention, SamTwoWayTransformer

PROMPTS, TOKENS, PIXELS, CHANNELS = 3, 7, 20, 32


def _inputs(images: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens = torch.randn(PROMPTS, TOKENS, CHANNELS)
    return tokens, torch.randn(images, PIXELS, CHANNELS), torch.randn(1, PIXELS, CHANNELS)


@pytest.mark.parametrize("images", [1, PROMPTS])
def test_tokens_to_image_equals_plain_attention(images: int) -> None:
    attention = SamAttention(CHANNELS, heads=4, downsample=2)
    tokens, image, positions = _inputs(images)
    plain = attention(tokens, (image + positions).expand(PROMPTS, -1, -1), image.expand(PROMPTS, -1, -1))
    torch.testing.assert_close(attention.tokens_to_image(tokens, image, positions), plain)


@pytest.mark.parametrize("images", [1, PROMPTS])
def test_image_to_tokens_equals_plain_attention_and_its_residual(images: int) -> None:
    attention = SamAttention(CHANNELS, heads=4, downsample=2)
    tokens, image, positions = _inputs(images)
    key = tokens + torch.randn_like(tokens)
    plain = image + attention((image + positions).expand(PROMPTS, -1, -1), key, tokens)
    torch.testing.assert_close(attention.image_to_tokens(image, positions, key, tokens), plain)


def test_refuses_a_width_that_the_heads_do_not_divide() -> None:
    with pytest.raises(RS4DError, match="multiple of 16"):
        SamAttention(24, heads=8, downsample=2)


@pytest.mark.parametrize("channels", [32, 256])
def test_two_way_transformer_equals_hugging_face(channels: int) -> None:
    sam = pytest.importorskip("transformers.models.sam.modeling_sam")
    config = sam.SamMaskDecoderConfig(hidden_size=channels, mlp_dim=48, num_attention_heads=8, num_hidden_layers=2)
    config._attn_implementation = "eager"
    theirs = sam.SamTwoWayTransformer(config).eval()
    ours = SamTwoWayTransformer(channels, depth=2, heads=8, mlp_channels=48, downsample=2).eval()
    ours.load_state_dict(theirs.state_dict())
    tokens = torch.randn(PROMPTS, TOKENS, channels)
    image, positions = torch.randn(1, channels, 4, 5), torch.randn(1, channels, 4, 5)
    with torch.no_grad():
        each = [maps.expand(PROMPTS, -1, -1, -1) for maps in (image, positions)]  # theirs wants one image per prompt
        want_tokens, want_image = theirs(tokens.unsqueeze(0), each[0], each[1], attention_similarity=None)
        as_tokens = [maps.flatten(2).transpose(1, 2) for maps in (image, positions)]
        got_tokens, got_image = ours(tokens, as_tokens[0], as_tokens[1], wanted=2)
    torch.testing.assert_close(got_tokens, want_tokens[0, :, :2], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(got_image, want_image[:, 0], atol=2e-5, rtol=1e-5)
