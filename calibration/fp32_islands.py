"""Which nodes of an exported graph stay in fp32 when the rest is computed in fp16: always, or by what was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import onnx.numpy_helper
from onnx import ModelProto, NodeProto

from rs4d_edge.calibration.calibration_set import CalibrationSet
from rs4d_edge.calibration.layers import HIGH_PRECISION
from rs4d_edge.errors import ExportError
from rs4d_edge.quantization_record import Fp32Island, RangeRecord

LARGEST_HALF = float(np.finfo(np.float16).max)  # 65504
# Frames to come may be brighter and busier than those of the calibration: two of fp16's 30 powers of two are kept free.
MARGIN = 4.0
LIMIT = LARGEST_HALF / MARGIN
# Never in fp16, with the reason. The patterns fit the beginnings of node names.
ALWAYS_FP32 = {
    # Its decays exp(A * delta) multiply over thousands of tokens, so that their rounding grows with the length, and
    # in plain operators the products pass the range of fp16. Where a core is split into kernels (`MixerCore/`), these
    # keep states and decays in fp32 themselves, and for the tensors in between it matters what was measured on them.
    "scan and mixer core": rf"(?!backbone\.layers\.\d+/MixerCore/)(?:{HIGH_PRECISION['scan and mixer core']})",
    # What belongs to no layer. Grey values become the model's input by a difference of nearly equal numbers. Box
    # corners in pixels have steps of 1/2 from 512 on, areas of boxes pass 65504, and scores that round to the same
    # number change the order in which boxes suppress each other. RoIAlign wants maps and boxes in one type. Masks are
    # cut at 0.5 of their sigmoid. All of it is a few per cent of the arithmetic.
    "normalisation, boxes, scores and selection": r"graph/|mask_rows/|channels_last/",
    # Sines of positions times up to tens of turns: one step of fp16 is a visible part of a turn.
    "sine encoding of positions": r"shared_image_embedding\b",
}
_ALWAYS = re.compile("|".join(f"(?:{pattern})" for pattern in ALWAYS_FP32.values()))


def always_fp32(model: ModelProto) -> set[str]:
    """The nodes of the main graph that stay in fp32 whatever was measured."""
    return {node.name for node in model.graph.node if _ALWAYS.match(node.name)}


def overflowing(model: ModelProto, ranges: Mapping[str, float], limit: float = LIMIT) -> list[Fp32Island]:
    """The other nodes that read or write a tensor whose magnitude passes `limit`, in the order of computation.

    `ranges` are those of `measure_ranges`; constants are known and may reach fp16's largest number. LayerNormalization
    adds up squares, but in fp32 (`stash_type`) in every engine. ExportError for values that are not finite.
    """
    always = always_fp32(model)
    held = {each.name: _largest_of(onnx.numpy_helper.to_array(each)) for each in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.name in always:
            continue
        worst = _worst(node, ranges, held, limit)
        if worst is None:
            continue
        tensor, largest = worst
        if not np.isfinite(largest):
            raise ExportError(
                f"the tensor {tensor!r} takes infinite values on the calibration frames, in fp32: check the model"
            )
        found.append(Fp32Island(node=node.name, tensor=tensor, largest=largest))
    return found


def range_record(
    model: ModelProto, ranges: Mapping[str, float], limit: float, frames: CalibrationSet, pixels: str
) -> RangeRecord:
    """The islands that `overflowing` finds, and the ranges of what is not in them, measured on `frames`."""
    islands = overflowing(model, ranges, limit)
    out = always_fp32(model) | {island.node for island in islands}
    rounded = {
        name: float(np.format_float_scientific(ranges[name], precision=4))
        for node in model.graph.node
        for name in node.output
        if name in ranges and node.name not in out
    }
    return RangeRecord(
        pixels=pixels,
        source=frames.source,
        frames=len(frames),
        limit=limit,
        largest=rounded,
        islands=tuple(islands),
    )


def _worst(
    node: NodeProto, ranges: Mapping[str, float], held: Mapping[str, float], limit: float
) -> tuple[str, float] | None:
    """The tensor at `node` that is the largest of those that are too large for fp16, with its magnitude."""
    measured = {name: ranges[name] for name in (*node.input, *node.output) if ranges.get(name, 0.0) > limit}
    constant = {name: held[name] for name in node.input if held.get(name, 0.0) > LARGEST_HALF}
    too_large = measured | constant
    return max(too_large.items(), key=lambda item: item[1]) if too_large else None


def _largest_of(value: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> float:
    """Of floating-point numbers; whole ones, which are shapes and places, are never in fp16."""
    if value.dtype.kind != "f" or not value.size:
        return 0.0
    return float(np.abs(value).max())
