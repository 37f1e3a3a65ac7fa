"""The command line of `rs4d-predict`."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from rs4d_edge.commands.predict import (
    COCO_NAME,
    FileResult,
    Saver,
    count_classes,
    find_images,
    parse_save,
    predict_files,
)
from rs4d_edge.detections import Detections
from rs4d_edge.errors import InputError, RS4DError
from rs4d_edge.predictor import Predictor

TOP_CLASSES = 4

app = typer.Typer(add_completion=False)
console = Console(highlight=False, soft_wrap=True)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, as written by rs4d-export")],
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Image files, folders and globs")],
    out: Annotated[Path | None, typer.Option(help="Save results in this folder")] = None,
    save: Annotated[str | None, typer.Option(help="What to save: overlay, coco, or both (the default)")] = None,
    score: Annotated[float | None, typer.Option(help="Show objects that score above this, not the model's own")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine")] = None,
    runtime: Annotated[str | None, typer.Option(help="Another runtime than the bundle's own")] = None,
) -> None:
    """Find objects in images. A file that fails is reported, the rest goes on, and the exit code is 1."""
    try:
        if save is not None and out is None:
            raise InputError("--save needs --out, the folder to save in")
        kinds = parse_save(save if save is not None else "overlay,coco")
        paths = find_images(sources)
        if not paths:
            raise InputError(f"there are no images in {', '.join(sources)}")
        with Predictor(bundle, runtime=runtime, threads=threads, score_threshold=score) as predictor:
            failed = _work(predictor, paths, out, kinds)
    except RS4DError as error:
        error_console.print(f"[red]error:[/red] {escape(str(error))}")
        raise typer.Exit(2) from error
    if failed:
        raise typer.Exit(1)


def _work(predictor: Predictor, paths: list[Path], out: Path | None, kinds: frozenset[str]) -> int:
    """Predict, print and save; returns how many files failed."""
    saver = Saver(out, kinds, predictor.contract.classes) if out is not None else None
    objects, failed = 0, 0
    times_ms: list[float] = []
    try:
        for number, result in enumerate(predict_files(predictor, paths, saver), start=1):
            _print_file(result, number, len(paths))
            if result.detections is None:
                failed += 1
            else:
                objects += len(result.detections)
                times_ms.append(result.detections.timings.total_ms)
    finally:  # an interrupted run keeps what it has found
        if saver is not None:
            saver.finish()
    _print_summary(objects, times_ms, failed)
    if out is not None:
        saved = [*(["overlays"] if "overlay" in kinds else []), *([COCO_NAME] if "coco" in kinds else [])]
        console.print(f"saved {' and '.join(saved)} in {escape(str(out))}")
    return failed


def _print_file(result: FileResult, number: int, total: int) -> None:
    place = f"[dim]{number}/{total}[/dim] {escape(str(result.path))}"
    if result.detections is None:
        error_console.print(f"{place}: [red]failed:[/red] {escape(result.error or '')}")
        return
    stages = result.detections.timings.to_dict()
    times = ", ".join(f"{name.removesuffix('_ms')} {value:.1f}" for name, value in stages.items())
    console.print(f"{place}: {_describe(result.detections)} [dim]({times} ms)[/dim]")


def _describe(detections: Detections) -> str:
    counts = count_classes(detections)
    shown = ", ".join(f"{count} {escape(name)}" for name, count in counts[:TOP_CLASSES])
    rest = f", {len(counts) - TOP_CLASSES} more classes" if len(counts) > TOP_CLASSES else ""
    return f"[bold]{len(detections)}[/bold] objects" + (f": {shown}{rest}" if counts else "")


def _print_summary(objects: int, times_ms: list[float], failed: int) -> None:
    text = f"{objects} objects in {len(times_ms)} images"
    if times_ms:
        text += f", median {statistics.median(times_ms):.1f} ms an image"
    if failed:
        text += f"; [red]{failed} failed[/red]"
    console.print(text)
