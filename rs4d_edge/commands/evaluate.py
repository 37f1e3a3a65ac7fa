"""`rs4d-eval`: COCO box and mask AP of a checkpoint, a shipped model or a bundle."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from rs4d_edge.errors import InputError, RS4DError
from rs4d_edge.evaluation.coco import KINDS, SUMMARY_PLACES, evaluate
from rs4d_edge.manifest import MANIFEST_NAME
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.loading import load

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
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out annotated images that are missing")
    ] = False,
) -> None:
    """Find objects in every image of a data set, and print how well that went."""
    if json_path is not None and json_path.is_dir():
        raise InputError(f"--json {json_path} is a folder: name a file")
    with open_source(source, runtime, threads) as predictor, Progress(console=console, transient=True) as progress:
        task = progress.add_task("evaluating")
        figures = evaluate(
            predictor,
            data,
            images,
            lambda done, total: progress.update(task, completed=done, total=total),
            skip_missing=skip_missing,
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
    return Predictor(load(source), runtime=runtime, threads=threads)


def summary_table(figures: dict[str, Any], source: str) -> Table:
    """All classes together: one row for boxes, one for masks."""
    table = Table("", title=f"COCO average precision of {escape(source)}")
    for name in SUMMARY_PLACES:
        table.add_column(name, justify="right")
    for kind in KINDS:
        table.add_row(
            "boxes" if kind == "bbox" else "masks", *(_figure(figures[kind][name]) for name in SUMMARY_PLACES)
        )
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


def _figure(value: float) -> str:
    """Three decimals; COCO's -1 means that there was nothing to find."""
    return "-" if value < 0 else f"{value:.3f}"


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write under a temporary name, then give the file its own."""
    text = json.dumps(content, indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text + "\n")
    os.replace(file.name, path)


def main() -> None:
    """Run the command; a deliberate error ends it with its message and status 1."""
    try:
        app()
    except RS4DError as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
