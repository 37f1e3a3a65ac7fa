"""RoIAlign on CUDA, run on the CPU by cuda_emulation, gives what the reference gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rs4d_edge.errors import InputError
from rs4d_edge.native.cuda_launch import Element
from rs4d_edge.native.cuda_selection import RoiShape, launch_roi_align
from rs4d_edge.reference.roi_align import roi_align_reference
from tests.native.cuda_emulation import Emulation


def boxes(count: int, extent: tuple[float, float]) -> Tensor:
    """RoIs of two images on one of `extent` (width, height) pixels; at least 12."""
    random = torch.Generator().manual_seed(count)
    limits = torch.tensor(extent)
    corners = torch.rand(count, 2, 2, generator=random) * limits
    rois = torch.cat((corners.amin(dim=1), corners.amax(dim=1)), dim=1)
    width, height = extent
    rois[0] = torch.tensor([0.0, 0.0, width, height])
    rois[1], rois[2] = torch.zeros(4), torch.tensor([9.0, 3.0, 9.0, 30.0])  # no area
    rois[3] = torch.tensor([10.0, 5.0, 10.01, height])  # a hair's breadth
    rois[4] = torch.tensor([width - 1, height - 1, width, height])
    rois[5] = torch.tensor([-40.0, -20.0, 30.0, height + 50.0])  # partly outside
    rois[6] = torch.tensor([width + 60.0, 0.0, width + 90.0, height])  # all outside
    rois[count // 2] = rois[0]
    return rois


def pooled(feature: Tensor, rois: Tensor, size: int, scale: float, element: Element, samples: int = 100) -> Tensor:
    """Filled with NaN before."""
    emulation = Emulation()
    emulation.reset()
    result = torch.full((len(rois), feature.shape[1], size, size), torch.nan, dtype=feature.dtype)
    given, scales = rois.contiguous(), torch.tensor([scale])
    images, channels, height, width = feature.shape
    shape = RoiShape(images, channels, height, width, len(rois), size, samples)
    addresses = (feature.data_ptr(), given.data_ptr(), scales.data_ptr(), result.data_ptr())
    launch_roi_align(emulation.scan.kernels, shape, element, addresses)
    return result


@pytest.mark.parametrize(
    ("element", "dtype", "tolerance"),
    [("f32", torch.float32, 2e-5), ("f16", torch.float16, 2.0**-9), ("bf16", torch.bfloat16, 2.0**-6)],
)
@pytest.mark.parametrize(("size", "stride", "size_hw"), [(7, 8, (12, 20)), (14, 4, (24, 17)), (2, 16, (6, 10))])
def test_pools_are_the_reference_s(
    size: int, stride: int, size_hw: tuple[int, int], element: Element, dtype: torch.dtype, tolerance: float
) -> None:
    feature = torch.randn(2, 3, *size_hw, generator=torch.Generator().manual_seed(size)).to(dtype)
    rois = boxes(24, (size_hw[1] * stride, size_hw[0] * stride))
    index = torch.arange(2).repeat_interleave(12)
    found = pooled(feature, rois, size, 1 / stride, element).float()
    expected = roi_align_reference(feature.float(), rois, index, size, 1 / stride)
    assert expected[0].abs().max() > 0 and not found[[1, 2]].any() and not found[6].any()
    assert not torch.equal(expected[0], expected[12])  # the same RoI of two images
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_large_values_are_added_up_in_fp32() -> None:
    feature = torch.full((1, 1, 40, 40), 60000.0, dtype=torch.float16)
    found = pooled(feature, torch.tensor([[0.0, 0.0, 40.0, 40.0]]), 2, 1.0, "f16")
    assert torch.equal(found, torch.full((1, 1, 2, 2), 60000.0, dtype=torch.float16))


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e30])
def test_a_roi_without_end_ends(value: float) -> None:
    rois = torch.tensor([[0.0, 0.0, value, value], [0.0, 0.0, 8.0, 8.0]])
    found = pooled(torch.ones(1, 1, 8, 8), rois, 2, 1.0, "f32", samples=4)
    assert torch.isfinite(found).all() and torch.equal(found[1], torch.ones(1, 2, 2))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"rois=3.*as many for each image"):
        pooled(torch.ones(2, 1, 4, 4), torch.zeros(3, 4), 2, 1.0, "f32")
    with pytest.raises(InputError, match=r"rois=65536.*at most 65535 RoIs"):
        pooled(torch.ones(1, 1, 4, 4), torch.zeros(65536, 4), 1, 1.0, "f32")
