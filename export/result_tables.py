"""What `rs4d-export` prints of an export: intermediate results beside the reference's, and what was proven."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from rs4d_edge.export.parity import Comparison
from rs4d_edge.export.pipeline import ExportResult
from rs4d_edge.export.recipes import ScanForm, Target
from rs4d_edge.quantization_record import QuantizationRecord, RangeRecord

console = Console()


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


def show_result(result: ExportResult, target: Target) -> None:
    """Print where the bundle is, what was proven about it, and what is left to do."""
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
    for engine in result.engines:
        memory = f", {engine.activations_bytes / 1e6:.0f} MB of activations" if engine.activations_bytes else ""
        figures = f"{engine.size_bytes / 1e6:.0f} MB{memory}, built and not run"
        table.add_row(f"engine for compute capability {engine.compute_capability}", figures)
    for name, text in quantization_rows(result.quantization) + range_rows(result.ranges):
        table.add_row(name, text)
    console.print(table)
    if result.scan is ScanForm.PLAIN and target is Target.CPU:
        console.print(
            "The scan extension could not be built here: the scan is in plain operators, several times slower"
        )
    if not found.reference:
        console.print("[yellow]The reference found nothing on these frames; give your own with --frames[/yellow]")
    console.print(f"bundle: {result.path}", markup=False, soft_wrap=True)
    if target is Target.JETSON:
        console.print(f"on the device: rs4d-export build {result.path.name}", markup=False, soft_wrap=True)


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


def range_rows(record: RangeRecord | None) -> list[tuple[str, str]]:
    """What to say of measured ranges, one row each: the largest tensor, and each island with its own."""
    if record is None:
        return []
    name, largest = max(record.largest.items(), key=lambda item: item[1])
    rows = [("largest activation", f"{largest:.4g} in {name}, on {record.frames} frames of {record.source}")]
    islands = [f"{each.node} ({each.largest:.4g} in {each.tensor})" for each in record.islands]
    return [*rows, (f"in fp32, above {record.limit:.4g}", ", ".join(islands) or "nothing more than always")]
