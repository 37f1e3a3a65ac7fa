"""An export from start to end, as short named steps that each write something or answer with what they made."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from onnx import ModelProto

from rs4d_edge.bundle import BundleDraft, sha256_of, write_bundle
from rs4d_edge.calibration.accuracy import ValidationSet
from rs4d_edge.calibration.frames import scene_frames
from rs4d_edge.contract import ModelContract
from rs4d_edge.export.accuracy import reference_accuracy
from rs4d_edge.export.conditional_masks import with_first_masks
from rs4d_edge.export.graph import example_inputs, fit_model, translate
from rs4d_edge.export.half_model import write_measured
from rs4d_edge.export.half_precision import QDQ_OPSET
from rs4d_edge.export.model_files import Written, open_as_written, write_float
from rs4d_edge.export.parity import Comparison, compare
from rs4d_edge.export.quantized_export import write_quantized
from rs4d_edge.export.quantized_model import QuantizationPlan, check_plan
from rs4d_edge.export.recipes import Precision, Recipe, ScanForm, Target
from rs4d_edge.export.scan_function import OPSET
from rs4d_edge.export.tensorrt_engines import LIBRARY, build_ahead, check_tensorrt, engine_options
from rs4d_edge.export.tensorrt_graph import rewrite_for_tensorrt
from rs4d_edge.export.tensorrt_mixer import split_mixers
from rs4d_edge.export.tensorrt_plugin_sources import write_plugin_sources
from rs4d_edge.export.tolerances import TOLERANCES
from rs4d_edge.frames import Frame
from rs4d_edge.machine import processor_name
from rs4d_edge.manifest import AccuracyOnData, WeightsRecord
from rs4d_edge.quantization_record import QuantizationRecord, RangeRecord
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.runtimes.tensorrt_record import EngineRecord

GOLDEN_FRAMES = 3
_WORK = "work"  # folder of the draft for what the gate needs and the bundle does not
_TOOLS = {
    Target.ONNX: ("onnxruntime",),
    Target.CPU: ("openvino",),
    Target.RTX: ("onnxruntime", LIBRARY),
    Target.JETSON: ("onnxruntime",),
}


class Step(NamedTuple):
    """A step that begins. `estimate_s`: about how long it takes, None for less than a few seconds."""

    name: str
    estimate_s: float | None = None


Progress = Callable[[Step], None]


class ExportResult(NamedTuple):
    """Where the bundle is, what was compared, how the scan stands in it, what is int8, and what was measured.

    `engines`: those that were built, which were not compared.
    """

    path: Path
    comparison: Comparison
    scan: ScanForm
    quantization: QuantizationRecord | None = None
    ranges: RangeRecord | None = None
    engines: tuple[EngineRecord, ...] = ()


def export_bundle(
    model: RS4D,
    recipe: Recipe,
    out_dir: Path,
    *,
    weights: WeightsRecord | None = None,
    frames: Sequence[Frame] | None = None,
    plan: QuantizationPlan | None = None,
    accuracy_on: ValidationSet | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress = lambda step: None,
    inspect: Callable[[Comparison], None] = lambda comparison: None,
) -> ExportResult:
    """Write the bundle of `model` that `recipe` describes to `out_dir`, if it gives what the model gives.

    `frames` (uint8 (h, w, 3), RGB) are the golden ones, by default drawn scenes. `plan` says on what to calibrate;
    there is no default where a precision needs it. What the reference scores on `accuracy_on` is recorded for
    rs4d-verify. `threads` are the exported model's while it is compared. `inspect`
    sees what was compared before the gate decides. Raises ParityError and leaves nothing behind if the export differs
    by more than the tolerances of its precision; ExportError, RuntimeUnavailable or InputError if it cannot be made.
    """
    check_plan(recipe, plan)
    if recipe.target is Target.RTX:
        check_tensorrt()
    source = weights or weights_record(model)
    with write_bundle(out_dir, overwrite=overwrite) as draft:
        fitted = fit_model(model, recipe.image_size_hw)
        contract = fitted.contract.model_copy(update={"batch": recipe.batch})
        once_s = _time_of_one_run(fitted, recipe.batch)
        accuracy = None
        if accuracy_on is not None:
            progress(Step(f"measure the reference on {accuracy_on.annotations.name}"))
            accuracy = reference_accuracy(fitted, accuracy_on)
        progress(Step("translate to ONNX", _translation_s(fitted, once_s)))
        rows = recipe.masks_at_once
        graph = translate(with_first_masks(fitted, rows) if rows else fitted, recipe.batch)
        if recipe.target.for_engines and recipe.engine_scan is ScanForm.PLUGIN:
            graph = split_mixers(graph)  # before ranges are measured: also those within a mixer decide what is fp16
        work = draft.path / _WORK
        work.mkdir()
        if plan is None:
            progress(Step("write the model"))
            written = write_float(graph, recipe, draft.path, work)
        elif not recipe.precision.quantized:
            progress(Step(f"measure ranges on {len(plan.frames)} frames", 2 + once_s * len(plan.frames)))
            written = write_measured(graph, recipe, fitted.config, plan, (draft.path, work), threads)
        else:
            written = _write_quantized(graph, recipe, fitted, source, draft.path, work, plan, progress, once_s, threads)
        if recipe.target.for_engines:
            progress(Step("rewrite for TensorRT"))
            written = rewrite_for_tensorrt(written, recipe.engine_scan)
        golden = list(frames) if frames is not None else scene_frames(GOLDEN_FRAMES, recipe.image_size_hw)
        batches = -(-len(golden) // recipe.batch)
        progress(Step(f"compare with the reference on {len(golden)} frames", 2 + 5 * once_s * batches))
        comparison = compare_written(fitted, written, recipe, contract, golden, threads)
        shutil.rmtree(work)
        inspect(comparison)
        comparison.require()
        if written.scan is ScanForm.PLUGIN:
            write_plugin_sources(draft.path)
        engines = _build_engines(written, recipe, draft.path, 5.0 + 2.0 * model.config.encoder.depth, progress)
        progress(Step("seal the bundle"))
        seal(draft, fitted, recipe, contract, comparison, golden, source, written, accuracy)
    return ExportResult(out_dir, comparison, written.scan, written.quantization, written.ranges, engines)


def _write_quantized(
    graph: ModelProto,
    recipe: Recipe,
    model: RS4D,
    weights: WeightsRecord,
    folder: Path,
    work: Path,
    plan: QuantizationPlan,
    progress: Progress,
    once_s: float,
    threads: int | None,
) -> Written:
    def note(text: str) -> None:
        # Statistics are gathered twice, with every layer's input as an output, by a runtime faster than the reference.
        progress(Step(text, 10 + once_s * len(plan.frames) if text.startswith("calibrate") else None))

    return write_quantized(graph, recipe, model, weights, plan, (folder, work), threads, note)


def _build_engines(
    written: Written, recipe: Recipe, folder: Path, estimate_s: float, progress: Progress
) -> tuple[EngineRecord, ...]:
    engines = []
    for capability in recipe.compute_capabilities:
        progress(Step(f"build the engine for compute capability {capability}", estimate_s))
        engines.append(build_ahead(written.model_path, capability, folder))
    return tuple(engines)


def compare_written(
    model: RS4D,
    written: Written,
    recipe: Recipe,
    contract: ModelContract,
    frames: Sequence[Frame],
    threads: int | None = None,
) -> Comparison:
    """Run what was written, and the same with all intermediate results, beside the reference."""
    with contextlib.ExitStack() as opened:
        exported, features = (
            opened.enter_context(contextlib.closing(open_as_written(path, recipe, threads)))
            for path in (written.model_path, written.features_path)
        )
        return compare(model, exported, features, contract, frames, TOLERANCES[recipe.precision])


def seal(
    draft: BundleDraft,
    model: RS4D,
    recipe: Recipe,
    contract: ModelContract,
    comparison: Comparison,
    frames: Sequence[Frame],
    weights: WeightsRecord,
    written: Written,
    accuracy: AccuracyOnData | None = None,
) -> Path:
    """Add the golden frames with the reference's detections and write the manifest; answers with the draft's folder."""
    for frame, detections, cut in zip(frames, comparison.references, comparison.cuts, strict=True):
        draft.add_golden(frame, detections, cut)
    draft.seal(
        name=model.config.name,
        target=recipe.target.value,
        runtime=recipe.target.runtime,
        precision=recipe.precision.value,
        contract=contract,
        model=written.model_path.name,
        weights=weights,
        parity=comparison.record(),
        tools=tool_versions(recipe.target),
        machine={"system": platform.platform(), "processor": processor_name()},
        options={
            "scan": written.scan.value,
            "opset": QDQ_OPSET if recipe.precision is Precision.INT8_FP16 else OPSET,
            "mask_rows": recipe.masks_at_once,
            "detections_excused_at_the_cut": comparison.detections.excused,
            "detections_moved": len(comparison.detections.moved),
            **engine_options(recipe),
        },
        quantization=written.quantization,
        ranges=written.ranges,
        accuracy=accuracy,
    )
    return draft.path


def weights_record(model: RS4D, source: Path | None = None) -> WeightsRecord:
    """Which weights these are: by the file's hash, or without a file by that of all tensors in the order of names."""
    if source is not None:
        return WeightsRecord(name=source.name, sha256=sha256_of(source))
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return WeightsRecord(name=model.config.name, sha256=digest.hexdigest())


def tool_versions(target: Target) -> dict[str, str]:
    """Versions of what takes part in an export."""
    packages = ("rs4d-edge", "torch", "onnx", "onnxscript", *_TOOLS[target])
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def _time_of_one_run(model: RS4D, batch: int) -> float:
    """Seconds of one run of the reference, which the estimates start from; not of the first, which prepares things."""
    inputs = example_inputs(model.config.encoder.image_size_hw, batch)
    with torch.inference_mode():
        model(*inputs)
        start = time.perf_counter()
        model(*inputs)
    return time.perf_counter() - start


def _translation_s(model: RS4D, once_s: float) -> float:
    """Seconds that the translation takes: it grows with the number of nodes, and runs the model once for the names."""
    return 8.0 + 0.5 * model.config.encoder.depth + once_s
