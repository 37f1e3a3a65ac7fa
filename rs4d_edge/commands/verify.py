"""`rs4d-verify`: whether a bundle is whole, and gives on this machine what the reference gave."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from rs4d_edge.commands.evaluate import lacking
from rs4d_edge.commands.terminal import run_app
from rs4d_edge.errors import InputError
from rs4d_edge.evaluation.images_folder import images_beside
from rs4d_edge.predictor import Predictor
from rs4d_edge.verification import Check, Outcome, Verification, verify
from rs4d_edge.whole_file import write_json

if TYPE_CHECKING:
    from rs4d_edge.evaluation.against_reference import KindFigures, OnData

_COLOURS = {Outcome.PASSED: "green", Outcome.NOTICE: "yellow", Outcome.FAILED: "red"}

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def verify_bundle(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, as written by rs4d-export")],
    data: Annotated[Path | None, typer.Option(help="COCO annotation file, to measure AP as well")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of its images; default: images/ or its own")] = None,
    max_drop: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Fail if mask AP on --data lies lower than the reference's")
    ] = None,
    runtime: Annotated[str | None, typer.Option(help="Another runtime than the bundle's own")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine; default: the engine's choice")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write what was found to this file")] = None,
) -> None:
    """Check every file's hash, and compare the detections on the golden frames with the reference's.

    Ends with status 0 if all is well, else with 1. With --data, average precision stands beside what the reference had
    when the bundle was exported with --val.
    """
    if json_path is not None and json_path.is_dir():
        raise InputError(f"--json {json_path} is a folder: name a file")
    if data is None and (images is not None or max_drop is not None):
        raise InputError("--images and --max-drop belong to --data, which was not given")
    result = verify(bundle, runtime=runtime, threads=threads)
    record = result.record()
    console.print(check_table(result))
    if data is not None and result.passed:
        on_data = _measure(bundle, data, images or images_beside(data), runtime, threads)
        console.print(data_table(on_data, data))
        if on_data.why_not:
            console.print(f"not compared: {escape(on_data.why_not)}", soft_wrap=True)
        result.checks += _judged(on_data, max_drop)
        record = {**result.record(), "data": {"annotations": str(data), **on_data.record()}}
    if json_path is not None:
        write_json(record, json_path)
        console.print(f"record: {escape(str(json_path))}", soft_wrap=True)
    if not result.passed:
        reasons = [check.found for check in result.checks if check.outcome is Outcome.FAILED]
        console.print(f"[red]not proven[/red]: {escape('; '.join(reasons))}", soft_wrap=True)
        raise typer.Exit(1)
    console.print(f"[green]proven[/green]; files and golden frames in {result.seconds:.1f} s")


def _measure(bundle: Path, data: Path, images: Path, runtime: str | None, threads: int | None) -> OnData:
    try:  # here, so that a device without the package can do all the rest
        from rs4d_edge.evaluation.against_reference import measure_against_reference
    except ModuleNotFoundError as error:
        raise lacking(error, "rs4d-verify --data") from error
    with (
        Predictor(bundle, runtime=runtime, threads=threads) as predictor,
        Progress(console=console, transient=True) as shown,
    ):
        tasks = {what: shown.add_task(what) for what in ("finding objects", "bootstrap")}
        return measure_against_reference(
            predictor,
            data,
            images,
            progress=lambda what, done, total: shown.update(tasks[what], completed=done, total=total),
        )


def _judged(on_data: OnData, max_drop: float | None) -> list[Check]:
    """The one check of --max-drop; none without it."""
    if max_drop is None:
        return []
    what = f"mask AP at most {max_drop} below the reference"
    difference = on_data.masks.difference
    if difference is None:
        return [Check(what, Outcome.FAILED, f"--max-drop has nothing to compare with: {on_data.why_not}")]
    outcome = Outcome.FAILED if difference < -max_drop else Outcome.PASSED
    return [Check(what, outcome, f"mask AP differs by {difference:+.4f} from the reference, --max-drop is {max_drop}")]


def check_table(result: Verification) -> Table:
    """One row for each check."""
    rows = Table("check", "", "found", title=escape(str(result.path)))
    for check in result.checks:
        colour = _COLOURS[check.outcome]
        rows.add_row(escape(check.what), f"[{colour}]{check.outcome.value}[/{colour}]", escape(check.found))
    return rows


def data_table(on_data: OnData, data: Path) -> Table:
    """Boxes and masks: the reference, here, the difference, and how sure the figure is."""
    table = Table("", title=f"Average precision on the {on_data.images} images of {escape(str(data))}")
    for heading in ("reference AP", "AP here", "difference", "95 % interval", "AP50 here"):
        table.add_column(heading, justify="right")
    for title, figures in (("boxes", on_data.boxes), ("masks", on_data.masks)):
        table.add_row(title, *_cells(figures))
    return table


def _cells(figures: KindFigures) -> tuple[str, ...]:
    reference = "-" if figures.reference is None else f"{figures.reference.ap:.4f}"
    difference = "-" if figures.difference is None else f"{figures.difference:+.4f}"
    low, high = figures.interval
    return reference, f"{figures.ap:.4f}", difference, f"{low:.3f} to {high:.3f}", f"{figures.ap50:.4f}"


def main() -> None:
    """Run the command; a deliberate error ends it with its message and status 1."""
    run_app(app)


if __name__ == "__main__":
    main()
