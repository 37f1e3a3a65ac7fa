"""Launch the kernels of NMS and RoIAlign in cuda_kernels.cu: their grids, arguments and workspace."""

from __future__ import annotations

from typing import NamedTuple

from rs4d_edge.errors import InputError
from rs4d_edge.native.cuda_driver import CudaKernels
from rs4d_edge.native.cuda_launch import LARGEST_GRID, LARGEST_INDEX, Element, kernel_arguments

MOST_BOXES = 4096  # of a group
_WORD = 32
_OVERLAP_THREADS, _SETTLE_THREADS, _ROI_THREADS = 128, 256, 128


class NmsArrays(NamedTuple):
    """Addresses; types and shapes as in cuda_kernels.cu. `overlaps`: `overlap_words` of workspace."""

    boxes: int
    scores: int
    most: int
    iou_threshold: int
    score_threshold: int
    keep: int
    overlaps: int


class RoiShape(NamedTuple):
    """Of a map, its RoIs over all images, bins a side, and samples of a bin along an axis at most."""

    images: int
    channels: int
    height: int
    width: int
    rois: int
    bins: int
    samples: int


def overlap_words(groups: int, boxes: int) -> int:
    """32-bit words of workspace for NMS among `boxes` of each group."""
    return groups * boxes * -(-boxes // _WORD)


def launch_nms(kernels: CudaKernels, groups: int, boxes: int, arrays: NmsArrays, *, stream: int = 0) -> None:
    """Greedy NMS on `boxes` of each group, on `stream`.

    Raises:
        InputError: more boxes than the kernels are compiled for, or more groups than fit a grid.
    """
    if not 1 <= boxes <= MOST_BOXES or not 1 <= groups <= LARGEST_GRID:
        raise InputError(
            f"CUDA NMS: {groups} groups of {boxes} boxes, compiled for 1 to {MOST_BOXES} boxes in at most "
            f"{LARGEST_GRID} groups: use the plain form"
        )
    words = -(-boxes // _WORD)
    compared = (arrays.boxes, arrays.scores, arrays.iou_threshold, arrays.score_threshold, arrays.overlaps)
    grid = (-(-boxes // _OVERLAP_THREADS), words, groups)
    kernels.launch("rs4d_nms_overlaps", grid, _OVERLAP_THREADS, kernel_arguments(compared, (boxes,)), stream)
    settled = (arrays.scores, arrays.most, arrays.score_threshold, arrays.overlaps, arrays.keep)
    kernels.launch("rs4d_nms_settle", (groups, 1, 1), _SETTLE_THREADS, kernel_arguments(settled, (boxes,)), stream)


def launch_roi_align(
    kernels: CudaKernels,
    shape: RoiShape,
    element: Element,
    addresses: tuple[int, int, int, int],
    *,
    stream: int = 0,
) -> None:
    """Pool: feature (B, C, H, W), rois (R, 4) image after image, scale (1) to pooled (R, C, S, S).

    Raises:
        InputError: RoIs that do not divide among the images, or sizes that do not fit a grid.
    """
    images, channels, height, width, rois, bins, samples = shape
    elements = channels * bins * bins
    fits = max(elements, height * width) <= LARGEST_INDEX - _ROI_THREADS and rois <= LARGEST_GRID
    if min(shape) < 1 or rois % images or not fits:
        raise InputError(
            f"CUDA RoIAlign: {shape} does not fit: pass at most {LARGEST_GRID} RoIs, as many for each image"
        )
    sizes = (rois // images, channels, height, width, bins, samples)
    grid = (-(-elements // _ROI_THREADS), rois, 1)
    arguments = kernel_arguments(addresses, sizes)
    kernels.launch(f"rs4d_roi_align_{element}", grid, _ROI_THREADS, arguments, stream)
