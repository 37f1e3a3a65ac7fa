"""An export from start to end, as short named steps that each write something or answer with what they made."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from onnx import ModelProto

from rs4d_edge.bundle import BundleDraft, sha256_of, write_bundle
from rs4d_edge.calibration.frames import scene_frames
from rs4d_edge.contract import ModelContract
from rs4d_edge.export.conditional_masks import loop_masks, with_first_masks
from rs4d_edge.export.graph import example_inputs, fit_model, only_outputs, save_graph, translate
from rs4d_edge.export.parity import Comparison, compare
from rs4d_edge.export.recipes import Recipe, ScanForm, Target
from rs4d_edge.export.scan_function import OPSET
from rs4d_edge.export.tolerances import TOLERANCES
from rs4d_edge.frames import Frame
from rs4d_edge.manifest import WeightsRecord
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.runtimes.contract import Runtime
from rs4d_edge.runtimes.table import open_runtime

GOLDEN_FRAMES = 3
_WORK = "work"  # folder of the draft for what the gate needs and the bundle does not
_TOOLS = {Target.ONNX: ("onnxruntime",), Target.CPU: ("openvino",)}


class Step(NamedTuple):
    """A step that begins. `estimate_s`: about how long it takes, None for less than a few seconds."""

    name: str
    estimate_s: float | None = None


Progress = Callable[[Step], None]


class ExportResult(NamedTuple):
    """Where the bundle is, what was compared, and how the scan stands in it."""

    path: Path
    comparison: Comparison
    scan: ScanForm


def export_bundle(
    model: RS4D,
    recipe: Recipe,
    out_dir: Path,
    *,
    weights: WeightsRecord | None = None,
    frames: Sequence[Frame] | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress = lambda step: None,
    inspect: Callable[[Comparison], None] = lambda comparison: None,
) -> ExportResult:
    """Write the bundle of `model` that `recipe` describes to `out_dir`, if it gives what the model gives.

    `frames` (uint8 (h, w, 3), RGB) are the golden ones, by default drawn scenes. `threads` are the exported model's
    while it is compared. `inspect` sees what was compared before the gate decides. Raises ParityError and leaves
    nothing behind if the export differs by more than the tolerances of its precision; ExportError, RuntimeUnavailable
    or InputError if it cannot be made.
    """
    with write_bundle(out_dir, overwrite=overwrite) as draft:
        fitted = fit_model(model, recipe.image_size_hw)
        contract = fitted.contract.model_copy(update={"batch": recipe.batch})
        once_s = _time_of_one_run(fitted, recipe.batch)
        progress(Step("translate to ONNX", _translation_s(fitted, once_s)))
        rows = recipe.masks_at_once
        graph = translate(with_first_masks(fitted, rows) if rows else fitted, recipe.batch)
        progress(Step("write the model"))
        model_path, scan = write_model(only_outputs(graph), recipe, draft.path)
        golden = list(frames) if frames is not None else scene_frames(GOLDEN_FRAMES, recipe.image_size_hw)
        batches = -(-len(golden) // recipe.batch)
        progress(Step(f"compare with the reference on {len(golden)} frames", 2 + 5 * once_s * batches))
        comparison = compare_draft(fitted, graph, recipe, contract, draft.path, golden, threads)
        inspect(comparison)
        comparison.require()
        progress(Step("seal the bundle"))
        seal(draft, fitted, recipe, contract, comparison, golden, weights or weights_record(model), scan, model_path)
    return ExportResult(out_dir, comparison, scan)


def write_model(graph: ModelProto, recipe: Recipe, folder: Path) -> tuple[Path, ScanForm]:
    """Write the file that the target's runtime opens; answers with its path and how the scan stands in it.

    If the recipe has the masks made a few at a time, `graph` makes those of the first few detections.
    """
    if recipe.masks_at_once:
        graph = loop_masks(graph, channels_last=recipe.target is Target.CPU)
    path = folder / recipe.target.model_file
    if recipe.target is Target.ONNX:
        return save_graph(graph, path), ScanForm.FUNCTION
    from rs4d_edge.export.openvino_model import save_ir, scan_extension_works

    form = ScanForm.NATIVE if scan_extension_works() else ScanForm.PLAIN
    return save_ir(graph, path, form), form


def compare_draft(
    model: RS4D,
    graph: ModelProto,
    recipe: Recipe,
    contract: ModelContract,
    folder: Path,
    frames: Sequence[Frame],
    threads: int | None = None,
) -> Comparison:
    """Run what `write_model` wrote into `folder`, and the graph with all intermediate results, beside the reference."""
    work = folder / _WORK
    work.mkdir()
    features_path, _ = write_model(graph, recipe, work)
    exported = _open_as_written(folder / recipe.target.model_file, recipe, threads)
    features = _open_as_written(features_path, recipe, threads)
    try:
        return compare(model, exported, features, contract, frames, TOLERANCES[recipe.precision])
    finally:
        exported.close()
        features.close()
        for path in work.iterdir():
            path.unlink()
        work.rmdir()


def _open_as_written(path: Path, recipe: Recipe, threads: int | None) -> Runtime:
    """The file as any device would run it: in ONNX Runtime without a kernel that only this machine may have."""
    if recipe.target is Target.ONNX:
        from rs4d_edge.runtimes.onnxruntime_runtime import OnnxRuntime

        return OnnxRuntime(path, threads=threads, native_scan=False)
    return open_runtime(recipe.target.runtime, path, threads=threads, precision=recipe.precision.value)


def seal(
    draft: BundleDraft,
    model: RS4D,
    recipe: Recipe,
    contract: ModelContract,
    comparison: Comparison,
    frames: Sequence[Frame],
    weights: WeightsRecord,
    scan: ScanForm,
    model_path: Path,
) -> Path:
    """Add the golden frames with the reference's detections and write the manifest; answers with the draft's folder."""
    for frame, detections in zip(frames, comparison.references, strict=True):
        draft.add_golden(frame, detections)
    draft.seal(
        name=model.config.name,
        target=recipe.target.value,
        runtime=recipe.target.runtime,
        precision=recipe.precision.value,
        contract=contract,
        model=model_path.name,
        weights=weights,
        parity=comparison.record(),
        tools=tool_versions(recipe.target),
        machine={"system": platform.platform(), "processor": processor_name()},
        options={
            "scan": scan.value,
            "opset": OPSET,
            "mask_rows": recipe.masks_at_once,
            "detections_excused_at_the_cut": comparison.excused,
            "detections_moved": len(comparison.moved),
        },
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


def processor_name() -> str:
    """The processor as its maker names it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


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
