"""The files that a target's runtime opens: the model for the bundle, and the same with its intermediate results."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from onnx import ModelProto

from rs4d_edge.export.conditional_masks import loop_masks
from rs4d_edge.export.graph import only_outputs, save_graph
from rs4d_edge.export.pooling_layout import pool_channels_last
from rs4d_edge.export.recipes import Recipe, ScanForm, Target
from rs4d_edge.quantization_record import QuantizationRecord, RangeRecord
from rs4d_edge.runtimes.contract import Runtime
from rs4d_edge.runtimes.table import open_runtime


class Written(NamedTuple):
    """The model's file, that with all intermediate results as outputs, the scan's form in both, and what is int8.

    `ranges` is there if the tensors' largest values were measured.
    """

    model_path: Path
    features_path: Path
    scan: ScanForm
    quantization: QuantizationRecord | None = None
    ranges: RangeRecord | None = None


def write_model(graph: ModelProto, recipe: Recipe, folder: Path) -> tuple[Path, ScanForm]:
    """Write the file that the target's runtime opens, not quantized; answers with its path and the scan's form in it.

    If the recipe has the masks made a few at a time, `graph` makes those of the first few detections.
    """
    graph = for_target(graph, recipe)
    path = folder / recipe.target.model_file
    if recipe.target is not Target.CPU:
        return save_graph(graph, path), ScanForm.FUNCTION
    from rs4d_edge.export.openvino_model import save_ir

    form = scan_form()
    return save_ir(graph, path, form), form


def write_float(graph: ModelProto, recipe: Recipe, folder: Path, work: Path) -> Written:
    """`graph` with the model's outputs alone into `folder`, and with all of its outputs into `work`."""
    model_path, form = write_model(only_outputs(graph), recipe, folder)
    features_path, _ = write_model(graph, recipe, work)
    return Written(model_path, features_path, form)


def for_target(graph: ModelProto, recipe: Recipe) -> ModelProto:
    """`graph` with the masks in a loop and maps in the layout that the target is fastest with."""
    on_cpu = recipe.target is Target.CPU
    if recipe.masks_at_once:
        graph = loop_masks(graph, channels_last=on_cpu)
    return pool_channels_last(graph) if on_cpu and recipe.precision.rest.value == "bf16" else graph


def open_as_written(path: Path, recipe: Recipe, threads: int | None) -> Runtime:
    """The file as any device would run it: in ONNX Runtime without a kernel that only this machine may have."""
    if recipe.target is not Target.CPU:
        from rs4d_edge.runtimes.onnxruntime_runtime import OnnxRuntime

        return OnnxRuntime(path, threads=threads, native_scan=False, precision=recipe.precision.value)
    return open_runtime(recipe.target.gate_runtime, path, threads=threads, precision=recipe.precision.value)


def scan_form() -> ScanForm:
    """How the scan stands in IR files that are written on this machine."""
    from rs4d_edge.export.openvino_model import scan_extension_works

    return ScanForm.NATIVE if scan_extension_works() else ScanForm.PLAIN
