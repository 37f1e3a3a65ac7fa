"""NMS and RoIAlign for TensorRT, beside `tensorrt_mixer_operators`: what it has of them cannot be used.

Its own operators for them either are not built by TensorRT-RTX or do not sample as the models do. In standard operators
NMS is a loop whose end depends on the data, which keeps an engine out of a CUDA graph, and RoIAlign a dense product
whose memory grows with RoIs times columns of the map.

    keep = NmsKeep(boxes, scores, most, iou_threshold, score_threshold)
    pooled = RoiAlignAdaptive(feature, rois, scale, bins, steps)

Shapes: boxes (G, N, 4) xyxy, scores (G, 1, N), keep (G, N) int32, 0 or 1, for N boxes in each of G groups; most (1)
int32, the thresholds (1). feature (B, C, H, W), rois (B R, 4) xyxy in input pixels, image after image, scale (1), and
pooled (B R, C, S, S); bins (S) and steps (K) count from 0 and tell by their sizes alone how many bins and at most how
many samples of a bin there are along an axis. feature and pooled are both fp32, fp16 or bf16; what else is not int32 is
fp32.
"""

from __future__ import annotations

from rs4d_edge.native.cuda_driver import CudaKernels
from rs4d_edge.native.cuda_selection import NmsArrays, RoiShape, launch_nms, launch_roi_align, overlap_words
from rs4d_edge.runtimes.tensorrt_operator import Buffers, Dims, Operator


def _nms_workspace(dims: Dims) -> int:
    groups, boxes, _ = dims[0]
    return 4 * overlap_words(groups, boxes)


def _launch_nms(kernels: CudaKernels, dims: Dims, buffers: Buffers, stream: int) -> None:
    groups, boxes, _ = dims[0]
    placed, scores, most, iou, score = buffers.inputs
    arrays = NmsArrays(placed, scores, most, iou, score, buffers.output, buffers.workspace)
    launch_nms(kernels, groups, boxes, arrays, stream=stream)


def _launch_roi_align(kernels: CudaKernels, dims: Dims, buffers: Buffers, stream: int) -> None:
    images, channels, height, width = dims[0]
    shape = RoiShape(images, channels, height, width, dims[1][0], dims[3][0], dims[4][0])
    feature, rois, scale, *_ = buffers.inputs
    launch_roi_align(kernels, shape, buffers.element, (feature, rois, scale, buffers.output), stream=stream)


SELECTION_OPERATORS = (
    Operator(
        "NmsKeep",
        ("boxes", "scores", "most", "iou_threshold", "score_threshold"),
        (0, 1, 3, 4),
        lambda dims, twice: (dims[0][0], dims[0][1]),
        _nms_workspace,
        _launch_nms,
        int32_inputs=(2,),
        int32_output=True,
    ),
    Operator(
        "RoiAlignAdaptive",
        ("feature", "rois", "scale", "bins", "steps"),
        (1, 2, 3, 4),
        lambda dims, twice: (dims[1][0], dims[0][1], dims[3][0], dims[3][0]),
        lambda dims: 0,
        _launch_roi_align,
    ),
)
