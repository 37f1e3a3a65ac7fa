"""What is not int8 in a quantized ONNX file, in fp16: the same islands of fp32 as without int8, by the same ranges."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import ModelProto

from rs4d_edge.calibration.activation_ranges import measure_ranges
from rs4d_edge.calibration.calibration_set import CalibrationSet, Feeds
from rs4d_edge.calibration.fp32_islands import LIMIT, always_fp32, range_record
from rs4d_edge.calibration.int8_scales import STEPS
from rs4d_edge.export.compact_constants import compact_constants
from rs4d_edge.export.graph import only_outputs, save_graph
from rs4d_edge.export.half_precision import raise_opset, to_half
from rs4d_edge.export.model_files import Written
from rs4d_edge.reference.config import DetectorConfig

_RANGES = "ranges.json"


def keep_ranges(graph: ModelProto, feeds: Iterable[Feeds], calibration: Path) -> None:
    """Measure the ranges of the fp32 `graph`, and keep them in the folder `calibration`, for every `write_half`.

    Rounding to int8 changes them by far less than the margin that is left to fp16.
    """
    ranges = measure_ranges(graph, feeds, calibration)
    (calibration / _RANGES).write_text(json.dumps(ranges), encoding="utf-8")


def write_half(
    written: Written, calibration: Path, frames: CalibrationSet, pixels: str, config: DetectorConfig
) -> Written:
    """Rewrite both of the quantized files in place, with what is not int8 in fp16 or in islands of fp32.

    `written` comes from the graph that `keep_ranges` had, quantized on `frames` (`pixels` is their SHA-256) with scales
    that fp16 holds. ExportError as in `to_half` and for ranges that are not finite.
    """
    quantized = onnx.load(written.features_path)
    measured: dict[str, float] = json.loads((calibration / _RANGES).read_text(encoding="utf-8"))
    record = range_record(quantized, ranges_with_roundings(quantized, measured), LIMIT, frames, pixels)
    named = {name: largest for name, largest in record.largest.items() if name in measured}
    half = to_half(quantized, always_fp32(quantized) | {island.node for island in record.islands})
    half = compact_constants(half, config)
    raise_opset(half)  # whether any layer is quantized or none
    save_graph(half, written.features_path)
    save_graph(only_outputs(half), written.model_path)
    return written._replace(ranges=record.model_copy(update={"largest": named}))


def ranges_with_roundings(quantized: ModelProto, ranges: Mapping[str, float]) -> dict[str, float]:
    """`ranges` of a graph with those of the tensors that quantizing it added: those ahead of and behind a rounding.

    What is rounded under a new name is as large as what it was made of; what is known by its scale alone ends at 127
    times that.
    """
    scales = {held.name: held for held in quantized.graph.initializer}
    known = dict(ranges)
    for node in quantized.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[1] not in scales:
            continue
        name = node.input[0] if node.op_type == "QuantizeLinear" else node.output[0]
        scale = onnx.numpy_helper.to_array(scales[node.input[1]])
        known.setdefault(name, known.get(name.removesuffix("/exact"), STEPS * float(np.max(scale))))
    return known
