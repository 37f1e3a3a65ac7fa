"""RoIAlign against its definition, sample by sample."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rs4d_edge.reference.roi_align import axis_taps, dense_axis_weights, roi_align, roi_align_op, roi_align_reference


def _rois(seed: int, count: int, reach: float, integral: bool) -> torch.Tensor:
    """RoIs inside, across and outside of a map of 52x68 pixels, some without area."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 100 - 20
    size = torch.rand(count, 2, generator=generator) * reach * (torch.rand(count, 1, generator=generator) > 0.1)
    rois = torch.cat((low, low + size), dim=1)
    return rois.round() if integral else rois


def _at_the_rim(rois: torch.Tensor, size: int, scale: float, size_hw: torch.Size) -> bool:
    """Whether a sample lies one cell outside but for rounding: there it jumps from a pixel's value to 0."""
    for x_start, y_start, x_end, y_end in (rois.double() * scale - 0.5).tolist():
        for start, end, length in ((y_start, y_end, size_hw[0]), (x_start, x_end, size_hw[1])):
            samples = size * max(0, math.ceil((end - start) / size))
            at = [start + (end - start) * (index + 0.5) / samples for index in range(samples)]
            if any(min(abs(each + 1), abs(each - length)) < 1e-4 for each in at):
                return True
    return False


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 6),
    reach=st.sampled_from([4.0, 60.0, 160.0]),
    size=st.sampled_from([1, 2, 7]),
    scale=st.sampled_from([1.0, 0.25, 0.125]),
    integral=st.booleans(),
)
def test_it_follows_the_definition(
    seed: int, count: int, reach: float, size: int, scale: float, integral: bool
) -> None:
    if scale == 1.0:
        reach = min(reach, 60.0)  # the sample-by-sample form takes long on large grids
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(2, 3, 13, 17, generator=generator)
    batch_index = torch.randint(0, 2, (count,), generator=generator)
    rois = _rois(seed, count, reach, integral)
    assume(not _at_the_rim(rois, size, scale, feature.shape[2:]))
    expected = roi_align_reference(feature, rois, batch_index, size, scale)
    torch.testing.assert_close(roi_align(feature, rois, batch_index, size, scale), expected, atol=2e-5, rtol=0)


def test_a_ramp_is_averaged_exactly() -> None:
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    pooled = roi_align(ramp, torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.zeros(1, dtype=torch.int64), 4, 0.25)
    torch.testing.assert_close(pooled[0, 0], torch.tensor([2.5, 4.5, 6.5, 8.5]).expand(4, 4))


def test_regions_without_area_give_zero() -> None:
    flat = torch.tensor([[0.0, 0.0, 0.0, 0.0], [4.0, 4.0, 20.0, 4.0], [20.0, 20.0, 4.0, 4.0]])
    pooled = roi_align(torch.ones(1, 2, 8, 8), flat, torch.zeros(3, dtype=torch.int64), 3, 0.25)
    assert pooled.shape == (3, 2, 3, 3)
    assert not pooled.any()


def test_gradients_are_those_of_the_definition() -> None:
    feature = torch.randn(2, 3, 9, 11, requires_grad=True)
    rois, batch_index = _rois(3, 5, 30.0, False), torch.tensor([0, 1, 1, 0, 1])
    weight = torch.randn(5, 3, 3, 3)
    gradients = [
        torch.autograd.grad((pool(feature, rois, batch_index, 3, 0.25) * weight).sum(), feature)[0]
        for pool in (roi_align, roi_align_reference)
    ]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


def test_pooling_is_in_single_precision_whatever_the_map() -> None:
    feature = torch.randn(1, 4, 9, 9, dtype=torch.bfloat16)
    pooled = roi_align(feature, torch.tensor([[3.0, 3.0, 30.0, 30.0]]), torch.zeros(1, dtype=torch.int64), 7, 0.25)
    assert pooled.dtype is torch.float32


def test_taps_as_a_matrix_average() -> None:
    taps = axis_taps(torch.tensor([2.0, 5.5]), torch.tensor([6.0, 9.0]), 3, 20)
    dense = dense_axis_weights(taps, 20)
    torch.testing.assert_close(dense.sum(dim=2), torch.ones(2, 3))
    torch.testing.assert_close(dense @ torch.arange(20.0), torch.tensor([[3.0, 5.0, 7.0], [7.0, 10.0, 13.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_op_satisfies_what_torch_asks_of_custom_ops(dtype: torch.dtype) -> None:
    feature = torch.randn(2, 4, 9, 9, dtype=dtype)
    inputs = (feature, _rois(1, 6, 30.0, False), torch.tensor([0, 1, 1, 0, 1, 0]), 7, 0.25)
    torch.library.opcheck(roi_align_op, inputs)
    assert torch.equal(roi_align_op(*inputs), roi_align(*inputs))
