"""The separable sine encoding against the two-dimensional formula, and its resizing against image interpolation."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from rs4d_edge.errors import RS4DError
from rs4d_edge.reference.sine_encoding import ExtraPositions

CHANNELS = 16
SIZES = ((16, 24), (8, 12), (4, 6), (2, 3), (1, 2))


def _plain_encoding(height: int, width: int) -> torch.Tensor:
    """(C, h, w), entry by entry from the formula: y in the first half, sine in even entries, positions from one."""
    half = CHANNELS // 2
    encoding = torch.zeros(CHANNELS, height, width)
    for channel in range(CHANNELS):
        entry = channel % half
        frequency = 10000 ** (2 * (entry // 2) / half)
        for row in range(height):
            for column in range(width):
                index, size = (row, height) if channel < half else (column, width)
                phase = (index + 1) / (size + 1e-6) * 2 * math.pi / frequency
                encoding[channel, row, column] = math.cos(phase) if entry % 2 else math.sin(phase)
    return encoding


@pytest.mark.parametrize("sizes", [SIZES, SIZES[:4]])
def test_levels_receive_the_resized_encoding(sizes: tuple[tuple[int, int], ...]) -> None:
    levels = [torch.randn(2, CHANNELS, *size) for size in sizes]
    encoding = _plain_encoding(*sizes[0])[None]
    positioned = ExtraPositions(CHANNELS, SIZES)(levels)
    assert len(positioned) == len(levels)
    for level, got in zip(levels, positioned, strict=True):
        want = level + functional.interpolate(encoding, level.shape[-2:], mode="bilinear", align_corners=False)
        torch.testing.assert_close(got, want, atol=2e-6, rtol=0)


def test_holds_no_checkpoint_keys() -> None:
    assert not ExtraPositions(CHANNELS, SIZES).state_dict()


def test_tables_are_constants_of_an_export() -> None:
    levels = [torch.randn(1, CHANNELS, *size) for size in SIZES]
    module = ExtraPositions(CHANNELS, SIZES)
    exported = torch.export.export(module, (levels,), strict=False)
    used = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert not any("sin" in name or "arange" in name or "upsample" in name for name in used)
    for got, want in zip(exported.module()(levels), module(levels), strict=True):
        torch.testing.assert_close(got, want)


def test_refuses_channels_that_do_not_halve_into_pairs() -> None:
    with pytest.raises(RS4DError, match="multiple of 4"):
        ExtraPositions(18, SIZES)
