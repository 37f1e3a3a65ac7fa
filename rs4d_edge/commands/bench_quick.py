"""`rs4d-bench BUNDLE`: so many runs of one bundle, and with --profile where in the network their time goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from rs4d_edge.bench.measuring import bundle_record
from rs4d_edge.bundle import Bundle, open_bundle
from rs4d_edge.commands.bench_frame import frame_for
from rs4d_edge.commands.bench_latency import WARM_UP_RUNS, Latency, measure
from rs4d_edge.commands.bench_profile import PROFILERS, profile_bundle, show_profile
from rs4d_edge.commands.bench_tables import latency_table, summary
from rs4d_edge.errors import InputError
from rs4d_edge.frames import Frame
from rs4d_edge.machine import machine_record
from rs4d_edge.predictor import Predictor
from rs4d_edge.whole_file import write_json

RUNS = 30


def run_quick(
    bundle: Path,
    profile: bool,
    frame: Path | None,
    threads: int | None,
    runs: int,
    runtime: str | None,
    json_path: Path | None,
    console: Console,
) -> None:
    """Time, print, and write what was asked for. `InputError` for what does not go together."""
    if json_path is not None and json_path.is_dir():
        raise InputError(f"--json {json_path} is a folder: name a file")
    opened = open_bundle(bundle)
    engine = runtime or opened.manifest.runtime
    if profile and engine not in PROFILERS:
        raise InputError(f"--profile knows the runtimes {', '.join(PROFILERS)}, not {engine!r}")
    image = frame_for(opened, frame)
    with Predictor(bundle, runtime=runtime, threads=threads) as predictor:
        latency = measure(predictor, image, runs)
    record = _record(opened, engine, threads, runs, image, latency)
    console.print(summary(record))
    console.print(latency_table(record["latency"]))
    if profile:
        record["profile"] = profile_bundle(opened, engine, threads, runs, image)
        show_profile(record["profile"], console)
    if json_path is not None:
        write_json(record, json_path)
        console.print(f"figures: {escape(str(json_path))}", soft_wrap=True)


def _record(
    bundle: Bundle, engine: str, threads: int | None, runs: int, frame: Frame, latency: Latency
) -> dict[str, Any]:
    return {
        **bundle_record(bundle, engine, threads, frame, masks_rendered=False),
        "runs": runs,
        "warm_up": WARM_UP_RUNS,
        "objects": latency.objects,
        "latency": latency.figures(),
        "times": latency.kept(),
        "machine": machine_record((engine,)),
    }
