"""`rs4d-bench`: how long a bundle takes for a frame, and where in the network the time goes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol, cast

import cv2
import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

from rs4d_edge.bundle import Bundle, open_bundle
from rs4d_edge.commands.bench_tables import latency_table, moves_table, share_table, summary
from rs4d_edge.commands.evaluate import write_json
from rs4d_edge.commands.terminal import run_app
from rs4d_edge.errors import InputError
from rs4d_edge.frames import Frame, read_image
from rs4d_edge.layer_times import (
    HOLDERS,
    LARGE_BYTES,
    NodeTime,
    ProfiledRuntime,
    by_group,
    by_kind,
    large_moves,
    middle_mean,
    placed_by_order,
)
from rs4d_edge.machine import machine_record
from rs4d_edge.predictor import Predictor
from rs4d_edge.timing import StageTimings

WARM_UP_RUNS = 3
STAGES = ("resize_ms", "infer_ms", "post_ms", "total_ms")
PROFILERS = {
    "openvino": "rs4d_edge.runtimes.openvino_profile",
    "onnxruntime": "rs4d_edge.runtimes.onnxruntime_profile",
}

app = typer.Typer(add_completion=False)
console = Console()


class ProfilerModule(Protocol):
    """What a module named in `PROFILERS` offers."""

    def open_profiled(self, model_path: Path, *, threads: int | None, precision: str) -> ProfiledRuntime:
        """Load the model so that the time of every node is kept."""
        ...


class Latency(NamedTuple):
    """Milliseconds of each run by stage, and how many objects were found in the frame."""

    runs: dict[str, list[float]]
    objects: int

    def figures(self) -> dict[str, dict[str, float]]:
        """Median, 90th percentile and maximum of each stage."""
        return {
            stage.removesuffix("_ms"): {
                "p50_ms": round(float(np.percentile(values, 50)), 3),
                "p90_ms": round(float(np.percentile(values, 90)), 3),
                "max_ms": round(max(values), 3),
            }
            for stage, values in self.runs.items()
        }


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, as written by rs4d-export")],
    profile: Annotated[bool, typer.Option("--profile", help="Show where in the network the time goes")] = False,
    frame: Annotated[Path | None, typer.Option(help="Image to run on; default: the first golden frame")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine; default: the engine's choice")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs, after a warm-up")] = 30,
    runtime: Annotated[str | None, typer.Option(help="Another runtime than the bundle's own")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file")] = None,
) -> None:
    """Time a bundle from the frame to its detections, on one frame again and again."""
    if json_path is not None and json_path.is_dir():
        raise InputError(f"--json {json_path} is a folder: name a file")
    opened = open_bundle(bundle)
    engine = runtime or opened.manifest.runtime
    if profile and engine not in PROFILERS:
        raise InputError(f"--profile knows the runtimes {', '.join(PROFILERS)}, not {engine!r}")
    image = _frame(opened, frame)
    with Predictor(bundle, runtime=runtime, threads=threads) as predictor:
        latency = measure(predictor, image, runs)
    record = _record(opened, engine, threads, runs, image, latency)
    console.print(summary(record))
    console.print(latency_table(record["latency"]))
    if profile:
        record["profile"] = _profile(opened, engine, threads, runs, image)
        _show_profile(record["profile"])
    if json_path is not None:
        write_json(record, json_path)
        console.print(f"figures: {escape(str(json_path))}", soft_wrap=True)


def measure(predictor: Predictor, frame: Frame, runs: int) -> Latency:
    """Run on `frame` (RGB) `runs` times after a warm-up. Masks are not rendered: that happens when they are used."""
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    objects = 0
    for run in range(WARM_UP_RUNS + runs):
        detections = predictor.run(frame)
        objects = len(detections)
        if run >= WARM_UP_RUNS:
            _keep(times, detections.timings)
    return Latency(times, objects)


def _keep(times: dict[str, list[float]], timings: StageTimings) -> None:
    for stage in STAGES:
        times[stage].append(float(getattr(timings, stage)))


def _frame(bundle: Bundle, path: Path | None) -> Frame:
    """The frame to run on, RGB."""
    if path is not None:
        image: Frame = cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        return image
    golden = bundle.golden()
    if not golden:
        raise InputError(f"{bundle.path} holds no golden frame: name an image with --frame")
    return golden[0][0]


def _profile(bundle: Bundle, engine: str, threads: int | None, runs: int, frame: Frame) -> dict[str, Any]:
    """The same frame path over a runtime that times its nodes; means over the middle half of the runs."""
    module = cast(ProfilerModule, importlib.import_module(PROFILERS[engine]))
    manifest = bundle.manifest
    runtime = module.open_profiled(bundle.model_path, threads=threads, precision=manifest.precision)
    with Predictor.over(runtime, manifest.contract) as predictor:
        latency = measure(predictor, frame, runs)
        nodes = middle_mean(runtime.finish()[WARM_UP_RUNS:])
    infer_ms = sorted(latency.runs["infer_ms"])[runs // 4 : runs - runs // 4]
    inner = any(node.outer for node in nodes)
    return {"infer_ms": float(np.mean(infer_ms)), "times_inner_nodes": inner, **_shares(nodes)}


def _shares(nodes: list[NodeTime]) -> dict[str, Any]:
    return {
        "nodes_ms": sum(node.ms for node in nodes),
        "placed_by_order": placed_by_order(nodes),
        "groups": [share._asdict() for share in by_group(nodes)],
        "kinds": [share._asdict() for share in by_kind(nodes)],
        "large_moves": [move._asdict() for move in large_moves(nodes)],
    }


def _show_profile(profile: dict[str, Any]) -> None:
    between_ms = profile["infer_ms"] - profile["nodes_ms"]
    groups = [*profile["groups"], {"label": "between the nodes", "ms": between_ms, "nodes": 0}]
    console.print(share_table("Layer groups, in the order of computation", groups, profile["infer_ms"]))
    console.print(share_table("Operator kinds", profile["kinds"], profile["infer_ms"], most=15))
    console.print(moves_table(profile["large_moves"], LARGE_BYTES))
    console.print(
        f"Means over the middle half of the runs; with every node timed the network took {profile['infer_ms']:.2f} ms. "
        f"{profile['placed_by_order']:.0%} of the time is in nodes whose names tell no module: they are counted where "
        "their neighbours in the order of execution are."
    )
    whole = sorted({kind["label"] for kind in profile["kinds"]} & HOLDERS)
    if whole and not profile["times_inner_nodes"]:
        console.print(f"The engine does not time what is inside of {', '.join(whole)}: it counts with the node.")


def _record(
    bundle: Bundle, engine: str, threads: int | None, runs: int, frame: Frame, latency: Latency
) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.path),
        "model": manifest.name,
        "runtime": engine,
        "precision": manifest.precision,
        "input_hw": list(manifest.contract.image_size_hw),
        "frame_hw": list(frame.shape[:2]),
        "threads": threads,
        "runs": runs,
        "warm_up": WARM_UP_RUNS,
        "objects": latency.objects,
        "latency": latency.figures(),
        "machine": machine_record((engine,)),
    }


def main() -> None:
    """Run the command; a deliberate error ends it with its message and status 1."""
    run_app(app)


if __name__ == "__main__":
    main()
