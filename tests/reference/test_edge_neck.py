"""The edge neck and the convolutional stem: strides, reach, odd grids, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import DetectorConfig, EncoderConfig, NeckConfig, NeckType, ProposalConfig
from rs4d_edge.reference.edge_neck import EdgeNeck
from rs4d_edge.reference.encoder import EncoderMaps, RSMamba

CONFIG = DetectorConfig(
    encoder=EncoderConfig(
        channels=16,
        depth=2,
        inner_channels=32,
        state_size=4,
        image_size_hw=(128, 64),
        stem_channels=(4, 6, 8),
        stem_blocks=(1, 1),
    ),
    neck=NeckConfig(type=NeckType.EDGE, layers=(), channels=12),
    proposals=ProposalConfig(strides=(8, 16, 32, 64)),
)


@pytest.mark.parametrize("size_hw", [(128, 64), (80, 112), (16, 16)])
@torch.no_grad()
def test_stem_and_neck_keep_their_strides(size_hw: tuple[int, int]) -> None:
    maps = RSMamba(CONFIG.encoder).eval()(torch.randn(2, 3, *size_hw))
    levels = EdgeNeck(CONFIG).eval()(maps)
    expected = [(-(-size_hw[0] // stride), -(-size_hw[1] // stride)) for stride in (8, 16, 32, 64)]
    assert [tuple(level.shape) for level in levels] == [(2, 12, *hw) for hw in expected]
    assert [tuple(m.shape[:2]) for m in maps.stem] == [(2, 6), (2, 8)]
    assert maps.stem[0].shape[2:] == (size_hw[0] // 4, size_hw[1] // 4)


def test_every_parameter_of_stem_and_neck_learns() -> None:
    encoder, neck = RSMamba(CONFIG.encoder), EdgeNeck(CONFIG)
    image = torch.randn(2, 3, 128, 64)
    sum(level.square().sum() for level in neck(encoder(image))).backward()
    parts = [*encoder.named_parameters(), *neck.named_parameters()]
    assert [name for name, value in parts if value.grad is None] == []


def test_norms_fold_into_convolutions() -> None:
    """Every batch norm follows a convolution without bias directly, and there is no other norm."""
    neck = EdgeNeck(CONFIG)
    norms = [module for module in neck.modules() if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)]
    convs = [module for module in neck.modules() if isinstance(module, nn.Conv2d)]
    pairs = [(m[0], m[1]) for m in neck.modules() if isinstance(m, nn.Sequential)]
    assert [(conv, norm) for conv, norm in pairs] == list(zip(convs, norms, strict=True))
    assert all(conv.bias is None for conv in convs)


@torch.no_grad()
def test_context_flows_down_and_detail_stays_fine() -> None:
    neck = EdgeNeck(CONFIG).eval()
    encoder_map, at_4, at_8 = torch.randn(1, 8, 4, 16), torch.randn(1, 6, 32, 16), torch.randn(1, 8, 16, 8)
    base = neck(EncoderMaps((encoder_map,), (at_4, at_8)))
    other_detail = neck(EncoderMaps((encoder_map,), (at_4 + 1, at_8)))
    other_context = neck(EncoderMaps((encoder_map + 1,), (at_4, at_8)))
    assert [torch.equal(a, b) for a, b in zip(base, other_detail, strict=True)] == [False, True, True, True]
    assert not any(torch.equal(a, b) for a, b in zip(base, other_context, strict=True))


def test_edge_neck_asks_for_its_strides() -> None:
    with pytest.raises(InputError, match=r"proposals.strides \(8, 16, 32, 64\)"):
        EdgeNeck(CONFIG.model_copy(update={"proposals": ProposalConfig()}))
