"""The published neck against the published numbers and our own long-hand ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rs4d_edge.errors import InputError
from rs4d_edge.reference.checkpoints import load_into, load_state
from rs4d_edge.reference.config import DetectorConfig, EncoderConfig, NeckConfig, ProposalConfig
from rs4d_edge.reference.edge_neck import EdgeNeck
from rs4d_edge.reference.encoder import EncoderMaps
from rs4d_edge.reference.neck import ChannelNorm, SimpleNeck, build_neck
from rs4d_edge.reference.presets import preset

OWN_NUMBERS = Path(__file__).parents[1] / "data" / "encoder_neck.npz"
TINY = DetectorConfig(
    encoder=EncoderConfig(channels=16, depth=4, inner_channels=32, state_size=4, image_size_hw=(64, 48)),
    neck=NeckConfig(layers=(1, 3), hidden_channels=4, channels=16),
)


@torch.no_grad()
def test_levels_are_those_computed_the_long_way() -> None:
    numbers = np.load(OWN_NUMBERS)
    neck = SimpleNeck(TINY).eval()
    prefix = "weight/neck."
    load_into(
        neck, {name.removeprefix(prefix): torch.from_numpy(numbers[name]).float() for name in numbers if prefix in name}
    )
    levels = neck(EncoderMaps(tuple(torch.from_numpy(numbers[f"layer_{i}"]) for i in range(4)), ()))
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 12), (8, 6), (4, 3), (2, 1), (1, 1)]
    for i, level in enumerate(levels):
        torch.testing.assert_close(level, torch.from_numpy(numbers[f"level_{i}"]), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_levels_are_the_published_ones(fixtures_dir: Path) -> None:
    numbers = np.load(fixtures_dir / "detector_bbox.npz")
    state, _ = load_state(fixtures_dir / "detector_bbox.fp16.pth")
    config = DetectorConfig(encoder=EncoderConfig(depth=6, image_size_hw=(512, 512)), neck=NeckConfig(layers=(1, 3, 5)))
    neck = SimpleNeck(config).eval()
    load_into(neck, {name.removeprefix("neck."): value for name, value in state.items() if name.startswith("neck.")})
    levels = neck.feature_spliter(torch.from_numpy(numbers["aggregator"]))
    stored = [numbers[name] for name in ("neck_0_every4", "neck_1_every2", "neck_2", "neck_3", "neck_4")]
    for level, step, theirs in zip(levels, (4, 2, 1, 1, 1), stored, strict=True):
        assert float((level[:, :, ::step, ::step] - torch.from_numpy(theirs)).abs().max()) < 2e-4


@torch.no_grad()
def test_channel_norm_normalises_each_pixel() -> None:
    x = torch.randn(2, 6, 3, 5) * 3 + 1
    normed = ChannelNorm(6)(x)
    torch.testing.assert_close(normed.mean(1), torch.zeros(2, 3, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(normed.var(1, unbiased=False), torch.ones(2, 3, 5), atol=1e-4, rtol=0)


def test_build_neck_follows_the_configuration() -> None:
    assert isinstance(build_neck(TINY), SimpleNeck)
    assert isinstance(build_neck(preset("rs4d-edge-nano-bbox")), EdgeNeck)


def test_simple_neck_asks_for_its_five_strides() -> None:
    with pytest.raises(InputError, match="makes 5 levels"):
        SimpleNeck(TINY.model_copy(update={"proposals": ProposalConfig(strides=(8, 16, 32, 64))}))


@torch.no_grad()
def test_narrowing_by_a_product_is_the_convolution_and_its_norm() -> None:
    torch.manual_seed(0)
    neck = SimpleNeck(TINY)
    maps = tuple(torch.randn(2, 4, 3, 16) for _ in range(2))
    down = neck.feature_aggregator.downconvs[0]
    for _ in range(3):
        down(maps[0].permute(0, 3, 1, 2))  # the norms' statistics leave their start
    neck.eval()
    wanted = down(maps[0].permute(0, 3, 1, 2))
    torch.testing.assert_close(neck.feature_aggregator._narrowed(maps[0], down), wanted, atol=1e-6, rtol=1e-5)
