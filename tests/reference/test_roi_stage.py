"""RoI stage: levels, both ways of pooling, and the published numbers on the published proposals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rs4d_edge.reference import load
from rs4d_edge.reference.box_head import BoxDetections
from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.roi_stage import RoIHead
from tests.reference.tiny_detector import SIDE, TINY, published_numbers

SIZE = (512, 512)
MAP_TOLERANCE = 2e-4


def _levels(batch: int = 2) -> list[Tensor]:
    return [torch.randn(batch, 32, SIDE // s, SIDE // s) for s in (8, 16, 32)]


def test_levels_change_where_the_side_doubles() -> None:
    narrow = DetectorConfig(roi=DetectorConfig().roi.model_copy(update={"fc_channels": 1, "mask_convs": 0}))
    sides = torch.tensor([0.0, 20.0, 111.9, 112.0, 223.9, 224.0, 448.0, 4000.0])
    boxes = torch.stack((sides * 0, sides * 0, sides, sides), dim=1)
    assert RoIHead(narrow).levels_of(boxes).tolist() == [0, 0, 0, 1, 1, 2, 3, 3]
    wide = torch.tensor([[0.0, 0.0, 448.0, 28.0]])  # the side of a square of the same area is 112
    assert RoIHead(narrow).levels_of(wide).tolist() == [1]


def test_both_ways_of_pooling_agree() -> None:
    head, levels = RoIHead(TINY), _levels()
    low = torch.rand(2, 20, 2) * 60
    boxes = torch.cat((low, low + torch.rand(2, 20, 2) * 300 + 1), dim=2)
    assert len(head.levels_of(boxes.reshape(-1, 4)).unique()) == 3  # type: ignore[no-untyped-call]  # torch's stub
    fixed = head.pool(levels, boxes, 7)
    by_level = head.pool_by_level(levels, boxes.reshape(-1, 4), torch.arange(2).repeat_interleave(20), 7)
    torch.testing.assert_close(fixed, by_level)


def test_padded_detections_have_empty_masks() -> None:
    head = RoIHead(TINY)
    boxes = torch.zeros(1, 3, 4)
    boxes[0, 0] = torch.tensor([5.0, 5.0, 40.0, 40.0])
    found = BoxDetections(boxes, torch.tensor([[0.9, 0.0, 0.0]]), torch.zeros(1, 3, dtype=torch.int64))
    masks = head.masks(_levels(1), found, torch.zeros(1, 32, 6, 6), None)
    assert masks.shape == (1, 3, 28, 28)
    assert masks[0, 0].min() > 0
    assert not masks[0, 1:].any()


class _Published:
    """Our RoI stage on the published proposals, beside what the published one gave."""

    def __init__(self, folder: Path) -> None:
        self.numbers = published_numbers(folder)
        model = load(folder / "detector_bbox.fp16.pth")
        with torch.no_grad():
            features = model.features(self.numbers["frame"], torch.tensor([SIZE]))
            levels = [features[f"neck.{i}"] for i in range(5)]
            proposals = self.numbers["proposals"][None]
            self.pooled = model.roi_head.pool(levels, proposals, 7)
            self.logits, self.deltas = model.roi_head.bbox_head(self.pooled)
            self.found = model.roi_head.bbox_head.select(proposals, self.logits, self.deltas, SIZE)
            self.mask_features = model.roi_head.pool(levels, self.found.boxes, 14)
            embedding = features["encoder.5"].permute(0, 3, 1, 2)
            self.masks = model.roi_head.masks(levels, self.found, embedding, None)


@pytest.fixture(scope="module")
def published(fixtures_dir: Path) -> _Published:
    return _Published(fixtures_dir)


def test_published_pooling_and_box_outputs(published: _Published) -> None:
    numbers = published.numbers
    first, means = published.pooled[:16], published.pooled.mean(dim=(2, 3))[:, :8]
    torch.testing.assert_close(first, numbers["bbox_roi_feats_first16"], atol=MAP_TOLERANCE, rtol=0)
    torch.testing.assert_close(means, numbers["bbox_roi_feats_mean"], atol=MAP_TOLERANCE, rtol=0)
    torch.testing.assert_close(published.logits, numbers["bbox_cls_score"], atol=MAP_TOLERANCE, rtol=0)
    torch.testing.assert_close(published.deltas, numbers["bbox_pred"], atol=MAP_TOLERANCE, rtol=0)


def test_published_detections(published: _Published) -> None:
    numbers, found = published.numbers, published.found
    count = len(numbers["scores"])
    assert int((found.scores > 0).sum()) == count
    assert torch.equal(found.labels[0, :count], numbers["labels"])
    torch.testing.assert_close(found.boxes[0, :count], numbers["boxes"], atol=0.5, rtol=0)
    torch.testing.assert_close(found.scores[0, :count], numbers["scores"], atol=1e-3, rtol=0)


def test_published_masks(published: _Published) -> None:
    numbers = published.numbers
    features, logits = numbers["mask_roi_feats_first8"], numbers["mask_logits_selected"]
    torch.testing.assert_close(published.mask_features[:8], features, atol=3e-4, rtol=0)  # boxes differ by 5e-4 pixels
    torch.testing.assert_close(published.masks[0, : len(logits)], logits.sigmoid(), atol=MAP_TOLERANCE, rtol=0)
    assert not published.masks[0, len(logits) :].any()
