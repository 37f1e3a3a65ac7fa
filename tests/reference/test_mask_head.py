"""Mask head of the `bbox` variant."""

from __future__ import annotations

import pytest
import torch

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import DetectorConfig, HeadType, PromptConfig, RoIConfig
from rs4d_edge.reference.mask_head import MaskHead
from tests.reference.tiny_detector import TINY

DETAILED = TINY.model_copy(update={"roi": TINY.roi.model_copy(update={"detail_channels": 8})})


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


def test_detail_from_the_stem_changes_the_mask_where_it_changes() -> None:
    torch.manual_seed(0)
    head = MaskHead(DETAILED)
    features, detail = torch.randn(2, 32, 14, 14), torch.randn(2, 16, 28, 28)
    before = head(features, detail)
    assert before.shape == (2, 3, 28, 28)
    detail[1, :, 20, 7] += 5.0
    changed = (head(features, detail) != before).any(dim=1)
    assert not changed[0].any()
    reached = changed[1].nonzero()
    assert len(reached) > 0
    assert ((reached - torch.tensor([20, 7])).abs() <= 1).all()  # what one 3x3 convolution spreads


def test_detail_is_asked_for() -> None:
    with pytest.raises(InputError, match="detail=None"):
        MaskHead(DETAILED)(torch.randn(1, 32, 14, 14))


def test_detail_needs_a_stem_and_the_bbox_head() -> None:
    with pytest.raises(ValueError, match="convolutional stem"):
        DetectorConfig(roi=RoIConfig(detail_channels=8))
    with pytest.raises(ValueError, match="bbox head"):
        DetectorConfig.model_validate(
            DETAILED.model_dump() | {"head": HeadType.PROMPT, "prompt": PromptConfig().model_dump()}
        )
