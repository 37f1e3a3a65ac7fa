"""The two ways from pixels to tokens."""

from __future__ import annotations

import pytest
import torch

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import EncoderConfig
from rs4d_edge.reference.stem import ConvStem, PatchEmbed, ResidualBlock


@torch.no_grad()
def test_patches_are_projected_one_by_one() -> None:
    embed = PatchEmbed(EncoderConfig(channels=8, image_size_hw=(32, 32)))
    image = torch.randn(1, 3, 32, 48)
    tokens = embed(image)
    assert tokens.shape == (1, 8, 2, 3)
    expected = embed.projection.weight.flatten(1) @ image[0, :, 16:32, 32:48].flatten()
    torch.testing.assert_close(tokens[0, :, 1, 2], expected, atol=1e-5, rtol=1e-4)
    assert embed.projection.bias is None


@torch.no_grad()
def test_stem_leaves_stride_16_to_the_embedding() -> None:
    config = EncoderConfig(channels=8, image_size_hw=(64, 64), stem_channels=(4, 5, 6))
    at_4, at_8 = ConvStem((4, 5, 6), (1, 2)).eval()(torch.randn(2, 3, 64, 32))
    assert (at_4.shape, at_8.shape) == ((2, 5, 16, 8), (2, 6, 8, 4))
    assert PatchEmbed(config)(at_8).shape == (2, 8, 4, 2)


@torch.no_grad()
def test_residual_block_adds_its_input() -> None:
    block = ResidualBlock(4).eval()
    for norm in block.body.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.weight.zero_()
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(x), torch.relu(x))


def test_stem_asks_for_its_patch_size() -> None:
    with pytest.raises(InputError, match="patch_size 8"):
        PatchEmbed(EncoderConfig(patch_size=8, image_size_hw=(64, 64), stem_channels=(4, 5, 6)))
