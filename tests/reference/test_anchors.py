"""Anchors: their order, their shapes and where they stand."""

from __future__ import annotations

import torch

from rs4d_edge.reference.anchors import base_anchors, level_anchors
from rs4d_edge.reference.config import ProposalConfig

CPU = torch.device("cpu")


def test_ratios_are_outermost_and_keep_the_area() -> None:
    anchors = base_anchors(4, ProposalConfig(scales=(4.0, 8.0), ratios=(0.5, 1.0, 2.0)))
    size = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(size[:, 1] / size[:, 0], torch.tensor([0.5, 0.5, 1.0, 1.0, 2.0, 2.0]))
    torch.testing.assert_close(size.prod(dim=1).sqrt(), torch.tensor([16.0, 32.0] * 3))
    torch.testing.assert_close(anchors[:, :2], -anchors[:, 2:])


def test_published_anchors() -> None:
    expected = torch.tensor([[-22.627417, -11.3137085], [-16.0, -16.0], [-11.3137085, -22.627417]])
    torch.testing.assert_close(base_anchors(4, ProposalConfig())[:, :2], expected)


def test_cells_are_visited_row_by_row_from_their_corners() -> None:
    config = ProposalConfig(scales=(2.5,), ratios=(1.0,))
    anchors = level_anchors((2, 3), 8, config, CPU)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres.tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8]]
    assert (anchors[:, 2:] - anchors[:, :2]).tolist() == [[20, 20]] * 6
