"""RoIAlign with adaptive sampling as a weighted sum of rows of a channels-last map.

A bin averages bilinear samples on a grid. Bilinear weights are a product of one weight per axis, so a bin's samples
along one axis merge into a few taps (neighbouring rows with weights), and the bin is the outer product of its row taps
and its column taps. `torch.nn.functional.embedding_bag` sums weighted rows quickly on CPU and CUDA and differentiates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_FINE_GRID = 4  # sampling grids above this are rounded up to an even number, so that fewer shapes occur


class AxisTaps(NamedTuple):
    """Taps of bins along one axis: `first` (R, S) int64 index, `weights` (R, S, K) of `first`, `first` + 1, ...

    `grid` (R,) int64 is the number of samples of each bin of a RoI: its first `grid` + 1 weights can be non-zero.
    """

    first: Tensor
    weights: Tensor
    grid: Tensor


@torch.library.custom_op("rs4d::roi_align", mutates_args=())
def roi_align_op(feature: Tensor, rois: Tensor, batch_index: Tensor, size: int, scale: float) -> Tensor:
    """`roi_align` as one opaque node for torch.export (inference only)."""
    return roi_align(feature, rois, batch_index, size, scale)


@roi_align_op.register_fake
def _(feature: Tensor, rois: Tensor, batch_index: Tensor, size: int, scale: float) -> Tensor:
    shape = (rois.shape[0], size, size, feature.shape[1])
    return feature.new_empty(shape, dtype=torch.float32).permute(0, 3, 1, 2)


def roi_align(feature: Tensor, rois: Tensor, batch_index: Tensor, size: int, scale: float) -> Tensor:
    """Pool `feature` (B, C, H, W) inside `rois` (R, 4) xyxy in input pixels -> (R, C, size, size), channels last.

    `batch_index` (R,) int64 names each RoI's image and `scale` is 1 / stride. Aligned (half-pixel) coordinates,
    ceil(bin side) samples per axis, mean. Samples further than one cell outside give 0, and so do RoIs without area,
    which cost nothing. Differentiable in `feature`; computed in fp32.
    """
    batch, channels, height, width = feature.shape
    table = feature.float().permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    edges = rois.detach().float() * scale - 0.5
    low, length = edges[:, :2], edges[:, 2:] - edges[:, :2]
    alive = (length > 0).all(dim=1).nonzero()[:, 0]
    shape = (rois.shape[0], size, size, channels)
    pooled = table.new_empty(shape) if len(alive) == len(rois) else table.new_zeros(shape)
    if len(alive):
        columns = axis_taps(low[alive, 0], length[alive, 0], size, width)
        rows = axis_taps(low[alive, 1], length[alive, 1], size, height)
        order, indices, weights, offsets = _bags(rows, columns, batch_index[alive], (height, width))
        sums = functional.embedding_bag(
            indices, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )
        pooled.index_copy_(0, alive[order], sums.view(-1, size, size, channels))
    return pooled.permute(0, 3, 1, 2)


def roi_align_reference(feature: Tensor, rois: Tensor, batch_index: Tensor, size: int, scale: float) -> Tensor:
    """The definition of `roi_align`, sample by sample: slow, for tests."""
    result = feature.new_zeros((len(rois), feature.shape[1], size, size))
    for index, roi in enumerate(rois):
        x_start, y_start, x_end, y_end = (roi * scale - 0.5).tolist()
        bins_hw = ((y_end - y_start) / size, (x_end - x_start) / size)
        grid_y, grid_x = (max(0, -int(-side // 1)) for side in bins_hw)
        for row in range(size):
            for column in range(size):
                for i in range(grid_y * grid_x):
                    y = y_start + bins_hw[0] * (row + (i // grid_x + 0.5) / grid_y)
                    x = x_start + bins_hw[1] * (column + (i % grid_x + 0.5) / grid_x)
                    sample = _bilinear(feature[int(batch_index[index])], y, x)
                    result[index, :, row, column] += sample / (grid_y * grid_x)
    return result


def axis_taps(start: Tensor, length: Tensor, size: int, extent: int) -> AxisTaps:
    """Taps of the `size` bins of RoIs on an axis of `extent` cells, with `start` (R,) and `length` (R,) > 0 in cells.

    Consecutive samples of a bin are at most one cell apart, so g samples touch at most g + 1 neighbouring cells.
    """
    grid = (length / size).ceil().long()
    step = torch.arange(int(grid.max()), device=start.device)
    bin_side = (length / size)[:, None, None]
    samples = grid[:, None, None]
    begin = start[:, None] + torch.arange(size, device=start.device) * bin_side[:, 0]
    position = begin[:, :, None] + (step + 0.5) * bin_side / samples
    counted = (step < samples) & (position >= -1) & (position <= extent)
    position = position.clamp(0, extent - 1)
    first = position[:, :, :1].floor()
    relative = torch.minimum((position - first).floor(), samples - 1.0)
    upper = (position - first - relative) * counted / samples
    lower = counted / samples - upper
    slot = relative.long()
    weights = torch.zeros((*position.shape[:2], len(step) + 1), device=start.device)
    weights.scatter_add_(2, slot, lower)
    weights.scatter_add_(2, slot + 1, upper)
    return AxisTaps(first[:, :, 0].long(), weights, grid)


def dense_axis_weights(taps: AxisTaps, extent: int) -> Tensor:
    """The taps as a matrix (R, S, extent) that maps an axis to bins, for maps that are small or needed once."""
    count = taps.weights.shape[2]
    position = (taps.first[:, :, None] + torch.arange(count, device=taps.first.device)).clamp(max=extent - 1)
    dense = taps.weights.new_zeros((*taps.first.shape, extent))
    return dense.scatter_add_(2, position, taps.weights)


def _bags(
    rows: AxisTaps, columns: AxisTaps, batch_index: Tensor, size_hw: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(order of the RoIs, flat indices, weights, offsets) of all bins; RoIs with equal grids are handled together."""
    grids = torch.stack((rows.grid, columns.grid), dim=1)
    coarse = torch.where(grids > _FINE_GRID, (grids + 1) // 2 * 2, grids)
    shapes, bucket, counts = torch.unique(coarse, dim=0, return_inverse=True, return_counts=True)
    order = torch.argsort(bucket, stable=True)
    indices, weights, lengths = [], [], []
    for chosen, (row_grid, column_grid) in zip(torch.split(order, counts.tolist()), shapes.tolist(), strict=True):
        y, y_weights = _bucket_taps(rows, chosen, row_grid + 1, size_hw[0])
        x, x_weights = _bucket_taps(columns, chosen, column_grid + 1, size_hw[1])
        line = (y + batch_index[chosen, None, None] * size_hw[0]) * size_hw[1]
        index = line[:, :, None, :, None].int() + x[:, None, :, None, :].int()
        indices.append(index.reshape(-1))
        weights.append((y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]).reshape(-1))
        taps = y.shape[2] * x.shape[2]
        lengths.append(torch.full((index.numel() // taps,), taps, dtype=torch.int32, device=index.device))
    offsets = functional.pad(torch.cat(lengths).cumsum(0, dtype=torch.int32), (1, 0))
    return order, torch.cat(indices), torch.cat(weights), offsets


def _bucket_taps(taps: AxisTaps, chosen: Tensor, count: int, extent: int) -> tuple[Tensor, Tensor]:
    count = min(count, taps.weights.shape[2])
    position = taps.first[chosen][:, :, None] + torch.arange(count, device=chosen.device)
    return position.clamp(max=extent - 1), taps.weights[chosen, :, :count]


def _bilinear(feature: Tensor, y: float, x: float) -> Tensor:
    """One sample of `feature` (C, H, W)."""
    height, width = feature.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return feature.new_zeros(feature.shape[0])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    fy, fx = y - top, x - left
    upper = feature[:, top, left] * (1 - fx) + feature[:, top, right] * fx
    return upper * (1 - fy) + (feature[:, bottom, left] * (1 - fx) + feature[:, bottom, right] * fx) * fy
