"""The fp16 form of what `model_files` writes, with its islands of fp32 from measured ranges; for bf16, ranges alone."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from rs4d_edge.calibration.activation_ranges import measure_ranges
from rs4d_edge.calibration.fp32_islands import LIMIT, MARGIN, always_fp32, range_record
from rs4d_edge.export.compact_constants import compact_constants
from rs4d_edge.export.half_precision import to_half
from rs4d_edge.export.model_files import Written, write_float
from rs4d_edge.export.quantized_model import CalibrationRuns, QuantizationPlan
from rs4d_edge.export.recipes import Precision, Recipe
from rs4d_edge.quantization_record import RangeRecord
from rs4d_edge.reference.config import DetectorConfig

_LARGEST_BF16 = float(2**127 * (2 - 2**-7))  # 3.39e38, less than one step below fp32's


def write_measured(
    graph: ModelProto,
    recipe: Recipe,
    config: DetectorConfig,
    plan: QuantizationPlan,
    folders: tuple[Path, Path],
    threads: int | None = None,
) -> Written:
    """Measure ranges on the plan's frames, and write what `write_float` writes; for fp16, in fp16 with its islands.

    `graph` makes the masks of the first detections, the surest, so that these are what the mask head's ranges are
    measured on. `folders` are those of the model and of the one with all outputs.
    """
    record = measured(graph, recipe, plan, folders[1], threads)
    if recipe.precision is Precision.FP16:
        graph = to_half(graph, always_fp32(graph) | {island.node for island in record.islands})
        graph = compact_constants(graph, config)
    return write_float(graph, recipe, *folders)._replace(ranges=record)


def measured(
    graph: ModelProto, recipe: Recipe, plan: QuantizationPlan, work: Path, threads: int | None = None
) -> RangeRecord:
    """The record of the ranges on the plan's frames."""
    ranges = measure_ranges(graph, CalibrationRuns(plan.frames, recipe), work, threads=threads)
    limit = LIMIT if recipe.precision is Precision.FP16 else _LARGEST_BF16 / MARGIN
    pixels, _ = plan.frames.digests(recipe.image_size_hw, recipe.batch)
    return range_record(graph, ranges, limit, plan.frames, pixels)
