"""`rs4d-eval`: COCO box and mask AP of a checkpoint, a shipped model or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from rs4d_edge.commands.terminal import run_app
from rs4d_edge.errors import InputError, RuntimeUnavailable
from rs4d_edge.manifest import MANIFEST_NAME
from rs4d_edge.predictor import Predictor
from rs4d_edge.whole_file import write_json

MEASURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
KINDS = {"bbox": "boxes", "segm": "masks"}

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def evaluate_source(
    source: Annotated[str, typer.Argument(help="A bundle's folder, a checkpoint file or a shipped model's name")],
    data: Annotated[Path, typer.Option(help="COCO annotation file")],
    images: Annotated[Path, typer.Option(help="Folder of its images")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file")] = None,
    runtime: Annotated[str | None, typer.Option(help="Another runtime than the bundle's own")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first N images only (for trying things out)")] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out annotated images that are missing")
    ] = False,
) -> None:
    """Find objects in every image of a data set, and print how well that went.

    Detections above the model's own score threshold count, at most 100 an image. In the JSON, null stands for figures
    of classes and sizes that the data has no object of.
    """
    if json_path is not None and json_path.is_dir():
        raise InputError(f"--json {json_path} is a folder: name a file")
    try:  # here, so that a device without the package is told so
        from rs4d_edge.evaluation.coco import evaluate
    except ModuleNotFoundError as error:
        raise lacking(error, "rs4d-eval") from error
    with open_source(source, runtime, threads) as predictor, Progress(console=console, transient=True) as progress:
        task = progress.add_task("evaluating")
        figures = evaluate(
            predictor,
            data,
            images,
            lambda done, total: progress.update(task, completed=done, total=total),
            skip_missing=skip_missing,
            limit=limit,
        )
    console.print(summary_table(figures, source))
    console.print(class_table(figures))
    console.print(f"{figures['images']} images, {figures['detections']} detections")
    if json_path is not None:
        write_json({"source": source, "data": str(data), **figures}, json_path)
        console.print(f"figures: {escape(str(json_path))}", soft_wrap=True)


def open_source(source: str, runtime: str | None, threads: int | None) -> Predictor:
    """A Predictor over a bundle if `source` is a folder, else over the reference model that it names."""
    if Path(source).is_dir() or Path(source).name == MANIFEST_NAME:
        return Predictor(source, runtime=runtime, threads=threads)
    try:
        from rs4d_edge.reference.loading import load  # here: a bundle is evaluated without torch
    except ModuleNotFoundError as error:
        raise lacking(error, f"the checkpoint {source}") from error
    return Predictor(load(source), runtime=runtime, threads=threads)


def lacking(error: ModuleNotFoundError, what: str) -> RuntimeUnavailable:
    """The error that says what to install for `what`."""
    return RuntimeUnavailable(
        f"{what} needs the package {error.name}, which is not installed: "
        'pip install "rs4d-edge[train]", or to evaluate bundles alone: pip install faster-coco-eval'
    )


def summary_table(figures: dict[str, Any], source: str) -> Table:
    """All classes together: one row for boxes, one for masks."""
    table = Table("", title=f"COCO average precision of {escape(source)}")
    for name in MEASURES:
        table.add_column(name, justify="right")
    for kind, title in KINDS.items():
        table.add_row(title, *(_figure(figures[kind][name]) for name in MEASURES))
    return table


def class_table(figures: dict[str, Any]) -> Table:
    """Class by class."""
    table = Table("class")
    for heading in ("box AP", "box AP50", "mask AP", "mask AP50"):
        table.add_column(heading, justify="right")
    for name in figures["bbox"]["per_class"]:
        cells = (figures[kind]["per_class"][name][measure] for kind in KINDS for measure in ("AP", "AP50"))
        table.add_row(escape(name), *map(_figure, cells))
    return table


def _figure(value: float | None) -> str:
    """Three decimals; a dash where there was nothing to find."""
    return "-" if value is None else f"{value:.3f}"


def main() -> None:
    """Run the command; a deliberate error ends it with its message and status 1."""
    run_app(app)


if __name__ == "__main__":
    main()
