"""Mask head of the `bbox` variant."""

from __future__ import annotations

import torch

from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.mask_head import MaskHead
from tests.reference.tiny_detector import TINY


def test_the_own_class_is_chosen() -> None:
    head = MaskHead(TINY)
    features, labels = torch.randn(4, 32, 14, 14), torch.tensor([2, 0, 1, 2])
    logits = head(features)
    assert logits.shape == (4, 3, 28, 28)
    torch.testing.assert_close(head.of_class(features, labels), logits[torch.arange(4), labels])


def test_published_names_and_widths() -> None:
    shapes = {name: tuple(value.shape) for name, value in MaskHead(DetectorConfig()).state_dict().items()}
    assert shapes["convs.3.conv.weight"] == (256, 256, 3, 3)
    assert shapes["upsample.weight"] == (256, 256, 2, 2)
    assert shapes["conv_logits.weight"] == (10, 256, 1, 1)
    assert len(shapes) == 12


def test_the_first_convolution_adapts_the_width() -> None:
    narrow = TINY.model_copy(update={"roi": TINY.roi.model_copy(update={"mask_convs": 2, "mask_channels": 8})})
    shapes = [tuple(value.shape) for name, value in MaskHead(narrow).state_dict().items() if "convs" in name]
    assert shapes == [(8, 32, 3, 3), (8,), (8, 8, 3, 3), (8,)]
