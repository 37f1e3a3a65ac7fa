"""`rs4d-export`: from a trained model to a bundle that is proven to give what the model gives."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rs4d_edge.calibration.accuracy import AccuracyGoal
from rs4d_edge.calibration.calibration_set import SAMPLES, open_calibration_set
from rs4d_edge.calibration.frames import load_frames
from rs4d_edge.commands.terminal import run_app
from rs4d_edge.errors import DataError, InputError
from rs4d_edge.export.parity import Comparison
from rs4d_edge.export.pipeline import GOLDEN_FRAMES, ExportResult, Step, export_bundle, weights_record
from rs4d_edge.export.quantized_model import QuantizationPlan
from rs4d_edge.export.recipes import Precision, Recipe, ScanForm, Target
from rs4d_edge.quantization_record import QuantizationRecord
from rs4d_edge.reference.loading import load
from rs4d_edge.reference.shipped import shipped_names, shipped_path

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A shipped model's name (rs4d-info --shipped) or a checkpoint file")],
    target: Annotated[Target, typer.Option(help="onnx: ONNX Runtime on any CPU; cpu: OpenVINO on x86 and Arm")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new bundle")],
    precision: Annotated[
        Precision, typer.Option(help="bf16 needs --target cpu and bf16 instructions; int8 needs --calib")
    ] = Precision.FP32,
    calib: Annotated[
        Path | None,
        typer.Option(help="Frames to calibrate int8 on: a folder or a COCO file, none of which it is judged by"),
    ] = None,
    calib_cache: Annotated[
        Path | None,
        typer.Option("--calib-cache", help="Folder that keeps calibrations for the next export; default: none is kept"),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", help="Leave layers out of int8 until mask AP on --val is at most so much lower"),
    ] = None,
    val: Annotated[
        Path | None, typer.Option(help="COCO file to measure --max-drop on, its images beside it or in images/")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="At most so many frames of --calib")] = SAMPLES,
    image_size: Annotated[
        tuple[int, int] | None,
        typer.Option("--image-size", metavar="H W", help="Input in pixels, multiples of 16; default: the model's own"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Frames that are run at once")] = 1,
    frames: Annotated[
        Path | None,
        typer.Option(help="Golden frames: an image, a folder or a COCO file; default: drawn scenes"),
    ] = None,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Show every intermediate result beside the reference's")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is already at --out")] = False,
) -> None:
    """Export MODEL, compare it with the reference on golden frames, and write the bundle only if they agree."""
    reference = load(model)
    recipe = make_recipe(target, precision, image_size or reference.config.encoder.image_size_hw, batch)
    source = shipped_path(model) if model in shipped_names() else Path(model)
    golden = load_frames(frames, GOLDEN_FRAMES) if frames is not None else None
    plan = None
    if precision.quantized or any(option is not None for option in (calib, calib_cache, max_drop, val)):
        plan = QuantizationPlan(open_calibration_set(calib, samples), cache=calib_cache, goal=make_goal(max_drop, val))
    steps = StepPrinter()
    result = export_bundle(
        reference,
        recipe,
        out,
        weights=weights_record(reference, source if source.is_file() else None),
        frames=golden,
        plan=plan,
        overwrite=overwrite,
        progress=steps,
        inspect=show_features if bisect else lambda comparison: None,
    )
    steps.finish()
    show_result(result)


def make_recipe(target: Target, precision: Precision, image_size_hw: tuple[int, int], batch: int) -> Recipe:
    """The recipe, or InputError in words for what does not go together."""
    try:
        return Recipe(target=target, precision=precision, image_size_hw=image_size_hw, batch=batch)
    except ValidationError as error:
        raise InputError("; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())) from error


def make_goal(max_drop: float | None, val: Path | None) -> AccuracyGoal | None:
    """The goal, if one was asked for. InputError for half of one, DataError for a file that is not there."""
    if (max_drop is None) != (val is None):
        raise InputError("--max-drop and --val go together: how much mask AP may fall, and on which COCO file")
    if max_drop is None or val is None:
        return None
    if not val.is_file():
        raise DataError(f"there is no annotation file at --val {val}; give a COCO file")
    return AccuracyGoal(val, max_drop)


class StepPrinter:
    """Prints each step when it begins, with an estimate if it is long, and the time that the one before it took."""

    def __init__(self) -> None:
        self._started: float | None = None

    def __call__(self, step: Step) -> None:
        """A step begins."""
        self.finish()
        self._started = time.perf_counter()
        estimate = f" (about {step.estimate_s:.0f} s)" if step.estimate_s else ""
        console.print(f"{escape(step.name)}{estimate} ...", end=" ")

    def finish(self) -> None:
        """The last step is done."""
        if self._started is not None:
            console.print(f"{time.perf_counter() - self._started:.1f} s")
        self._started = None


def show_features(comparison: Comparison) -> None:
    """Print every intermediate result, in order, and name the first that departs from the reference."""
    table = Table("result", title="Largest differences from the reference, in order of computation")
    for heading in ("difference", "of", "relative", "rows moved"):
        table.add_column(heading, justify="right")
    first = comparison.first_departing()
    for each in comparison.features.values():
        style = "red" if each.departs(comparison.limits) else None
        figures = (f"{each.max_abs:.2e}", f"{each.magnitude:.2e}", f"{each.relative:.1e}", f"{each.moved_rows:.1%}")
        table.add_row(each.name, *figures, style=style)
    console.print()
    console.print(table)
    console.print(f"first to depart: [red]{first}[/red]" if first else "no result departs from the reference")


def show_result(result: ExportResult) -> None:
    """Print where the bundle is and what was proven about it."""
    record = result.comparison.record()
    found, worst = record.detections, max(record.tensors, key=lambda each: each.max_abs_diff / each.tolerance)
    relative = worst.max_abs_diff / worst.tolerance * result.comparison.limits.tensor
    table = Table("parity", "", show_header=False)
    table.add_row("frames", str(record.frames))
    table.add_row("largest tensor difference", f"{relative:.1e} of the largest value, in {worst.name}")
    table.add_row("detections", f"{found.matched} matched, {found.reference} reference, {found.exported} exported")
    if found.matched:
        table.add_row("largest box difference", f"{found.max_box_diff_px:.2g} px")
        table.add_row("largest score difference", f"{found.max_score_diff:.1e}")
        table.add_row("least mask IoU", f"{found.min_mask_iou:.3f}")
    table.add_row("scan", result.scan.value)
    for name, text in quantization_rows(result.quantization):
        table.add_row(name, text)
    console.print(table)
    if result.scan is ScanForm.PLAIN:
        console.print(
            "The scan extension could not be built here: the scan is in plain operators, several times slower"
        )
    if not found.reference:
        console.print("[yellow]The reference found nothing on these frames; give your own with --frames[/yellow]")
    console.print(f"bundle: {result.path}", markup=False, soft_wrap=True)


def quantization_rows(record: QuantizationRecord | None) -> list[tuple[str, str]]:
    """What to say of a quantization, one row each."""
    if record is None:
        return []
    rows = [("int8 layers", f"{len(record.quantized)}, calibrated on {record.frames} frames of {record.source}")]
    if record.high_precision:
        rows.append((f"layers in {record.rest}", ", ".join(record.high_precision)))
    if record.accuracy is not None:
        accuracy = record.accuracy
        reached = "reached" if accuracy.met else "not reached: this is the best that was found"
        rows.append(("mask AP", f"{accuracy.float_ap:.4f} without int8, {accuracy.int8_ap:.4f} with it"))
        rows.append((f"drop of {accuracy.max_drop}", reached))
    return rows


def main() -> None:
    """Run the command; a deliberate error ends it with its message and status 1."""
    run_app(app)


if __name__ == "__main__":
    main()
