"""`rs4d-bench`: what bundles take on this device, where the time goes, a model's forms side by side, what changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rs4d_edge.bench.comparing import THRESHOLD
from rs4d_edge.commands.bench_compare import SLOWER, run_compare
from rs4d_edge.commands.bench_device import DeviceRequest, run_device, show_record
from rs4d_edge.commands.bench_matrix import run_matrix
from rs4d_edge.commands.bench_quick import RUNS, run_quick
from rs4d_edge.commands.matrix_entries import MATRIX_RUNS, MATRIX_THREADS, MatrixRequest
from rs4d_edge.commands.terminal import run_app
from rs4d_edge.errors import InputError

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def bench(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE...",
            help="Bundles' folders, as written by rs4d-export; with --matrix several, or instead a model, by its "
            "shipped name or its checkpoint file, which is exported in every form; with --compare two files of --json",
        ),
    ],
    duration: Annotated[
        str | None, typer.Option(metavar="TIME", help="Measure for so long, as in 60 or 5m: times, memory, heat, power")
    ] = None,
    soak: Annotated[
        str | None, typer.Option(metavar="TIME", help="The same for minutes or hours, with a verdict: what drifts?")
    ] = None,
    streams: Annotated[
        int | None, typer.Option(min=1, help="Throughput with 1 to N streams at once as well, a Predictor for each")
    ] = None,
    deadline_ms: Annotated[float | None, typer.Option(min=0.0, help="Count the frames that take longer")] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER",
            help="Measure this after the bundles, on the same frame, as often as given: an ONNX file that takes an "
            "image, published (the model's published PyTorch path) or published=CHECKPOINT, sam-vit-b",
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with plots, which needs matplotlib")] = None,
    accuracy: Annotated[
        list[Path] | None, typer.Option(help="Accuracy for the page: a file of rs4d-eval --json, once for each bundle")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help=f"What changed from A.json to B.json beyond noise; status {SLOWER} if slower"),
    ] = False,
    threshold: Annotated[
        float | None, typer.Option(min=0.0, help=f"Compare: the change that matters; default {THRESHOLD}")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Show where in the network the time goes")] = False,
    frame: Annotated[Path | None, typer.Option(help="Image to run on; default: the first golden frame")] = None,
    threads: Annotated[
        int | None,
        typer.Option(help=f"Threads of the engine; default: its own choice, with --matrix {MATRIX_THREADS}"),
    ] = None,
    runs: Annotated[
        int | None,
        typer.Option(min=1, help=f"Timed runs, after a warm-up; default {RUNS}, with --matrix {MATRIX_RUNS}"),
    ] = None,
    runtime: Annotated[str | None, typer.Option(help="Another runtime than the bundle's own")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file")] = None,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Accuracy, time, size and memory of a model's forms beside each other")
    ] = False,
    data: Annotated[Path | None, typer.Option(help="Matrix: COCO file to measure accuracy and time on")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Matrix: folder of its images; default: beside --data, or images/ there")
    ] = None,
    calib: Annotated[
        Path | None,
        typer.Option(help="Matrix of a model: folder or COCO file to calibrate int8 on, not --data"),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Matrix of a model: at most so many of --calib")] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Matrix of a model: folder that keeps its bundles; those that are outdated are replaced"),
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Matrix: write the table to this file, in Markdown")] = None,
) -> None:
    """Time a bundle from the frame to its detections, on one frame again and again.

    Alone, so many runs of one bundle, without masks. With --duration, --soak, --streams, --deadline-ms, --peer or
    --report, or several bundles: everything that a device shows, masks included.
    """
    profiled = {"--profile": profile or None}
    one_frame = {"--frame": frame, "--runtime": runtime}
    quick = {**profiled, "--runs": runs}
    timed = {"--duration": duration, "--soak": soak, "--streams": streams, "--deadline-ms": deadline_ms}
    on_device = {**timed, "--peer": peer or None, "--report": report, "--accuracy": accuracy or None}
    beside = {"--data": data, "--images": images, "--calib": calib, "--samples": samples, "--work": work}
    beside["--markdown"] = markdown
    if compare:
        measuring = {**quick, **on_device, **beside, **one_frame, "--threads": threads, "--matrix": matrix or None}
        _refuse(measuring, "not for --compare, which measures nothing")
        files = tuple(map(Path, sources))
        slower = run_compare(files, THRESHOLD if threshold is None else threshold, json_path, console)
        raise typer.Exit(SLOWER if slower else 0)
    _refuse({"--threshold": threshold}, "only for --compare")
    if matrix:
        why = "not for --matrix, which runs every bundle in its own runtime on images of --data"
        _refuse({**profiled, **one_frame, **on_device}, why)
        request = MatrixRequest(
            tuple(sources),
            data=data,
            images=images,
            calib=calib,
            samples=samples,
            work=work,
            threads=MATRIX_THREADS if threads is None else threads,
            runs=runs or MATRIX_RUNS,
            json_path=json_path,
            markdown_path=markdown,
        )
        run_matrix(request, console)
        return
    _refuse(beside, "only for --matrix")
    if len(sources) == 1 and not any(value is not None for value in on_device.values()):
        run_quick(Path(sources[0]), profile, frame, threads, runs or RUNS, runtime, json_path, console)
        return
    _refuse(quick, "for one bundle alone, without --duration and what goes with it")
    device = DeviceRequest(
        tuple(map(Path, sources)),
        peers=tuple(peer or ()),
        duration=duration,
        soak=soak,
        streams=streams,
        deadline_ms=deadline_ms,
        threads=threads,
        runtime=runtime,
        frame=frame,
        accuracy=tuple(accuracy or ()),
        json_path=json_path,
        report=report,
    )
    (show_record if Path(sources[0]).is_file() else run_device)(device, console)


def _refuse(options: dict[str, Any], why: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(f"{', '.join(given)}: {why}")


def main() -> None:
    """Run the command; a deliberate error ends it with its message and status 1."""
    run_app(app)


if __name__ == "__main__":
    main()
