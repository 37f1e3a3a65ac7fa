"""Whole edge networks, frame in, detections out, in units of a matrix product: `python -m benchmarks.network`.

    python -m benchmarks.network --json network.json [--checkpoint small=FILE] [--runs 15]
    python -m benchmarks.network --quick     # the nano model alone, two runs, nothing is judged

The unit is one product 4096x256x1024 of the same precision, in OpenVINO or in torch, whichever is faster, timed in the
same turns. Frames go through the Predictor: a drawn scene, and images of NWPU VHR-10 where the folder of data
sets, $RS4D_DATA, holds them. The worst case is the same model without threshold and suppression, so that 100 detections
leave the network (the Predictor drops those outside of the frame). ONNX Runtime is timed beside OpenVINO. Ratios are
what can be compared across machines.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.floor import gemm_units
from benchmarks.measuring import Bar, Timed, bars_table, precisions, restart_with_quiet_threads, take_turns
from benchmarks.network_models import Candidate, candidate, export, without_threshold
from rs4d_edge.bundle import open_bundle
from rs4d_edge.calibration.frames import load_frames
from rs4d_edge.export.recipes import Target
from rs4d_edge.frames import Frame
from rs4d_edge.machine import machine_record
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.runtimes.table import open_runtime
from rs4d_edge.scenes import generate_scene
from rs4d_edge.whole_file import write_json

MODELS = {"nano": "rs4d-edge-nano-bbox", "small": "rs4d-edge-small-bbox"}
UNIT_BARS = {"fp32": {"nano": 5.4, "small": 15.0}, "bf16": {"nano": 8.0, "small": 21.0}}
TYPICAL, WORST = "frames", "worst case"
SCENE_SEED, PHOTOGRAPHS = 20_260, 3


@dataclass
class Row:
    """One network in one engine. `objects`: detections a frame, `units`: of the matrix product of its precision."""

    model: str
    load: str
    engine: str
    precision: str
    objects: float
    frame_ms: float = 0.0
    units: float = 0.0


def sample_frames(side: int) -> list[Frame]:
    """A drawn scene of `side` x `side` pixels and the photographs that are at hand, RGB."""
    named = os.environ.get("RS4D_DATA")
    data = Path(named) if named else Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    annotations = data / "nwpu_vhr10" / "val.json"
    photographs = load_frames(annotations, PHOTOGRAPHS) if annotations.is_file() else []
    return [generate_scene(SCENE_SEED, (side, side)).image, *photographs]


def open_all(
    key: str, load: str, model: RS4D, frames: Sequence[Frame], folder: Path, threads: int
) -> list[tuple[Row, Predictor]]:
    """Predictors over the model in every engine and precision of this machine."""
    native = open_bundle(export(model, Target.CPU, frames[:1], folder, threads))
    onnx = export(model, Target.ONNX, frames[:1], folder, threads)
    opened = [("onnxruntime", "fp32", Predictor(onnx, threads=threads))]
    for precision in precisions():
        runtime = open_runtime("openvino", native.model_path, threads=threads, precision=precision)
        opened.append(("openvino", precision, Predictor.over(runtime, native.manifest.contract)))
    rows = []
    for engine, precision, predictor in opened:
        objects = sum(len(predictor.run(frame)) for frame in frames) / len(frames)
        rows.append((Row(key, load, engine, precision, objects), predictor))
    return rows


def measure(opened: Sequence[tuple[Row, Predictor]], frames: Sequence[Frame], threads: int, runs: int) -> Any:
    """Fill the rows in; answers with the milliseconds of the matrix products."""
    functions = {
        name: timed for precision in precisions() for name, timed in gemm_units(precision, threads, runs).items()
    }
    for number, (_, predictor) in enumerate(opened):
        functions[f"network {number}"] = Timed(_all_frames(predictor, frames), runs)
    times = take_turns(functions)
    gemms = {name: each.median_ms for name, each in times.items() if name.startswith("gemm")}
    for number, (row, predictor) in enumerate(opened):
        row.frame_ms = times[f"network {number}"].median_ms / len(frames)
        unit_ms = min(value for name, value in gemms.items() if name.endswith(row.precision))
        row.units = row.frame_ms / unit_ms
        predictor.close()
    return gemms


def _all_frames(predictor: Predictor, frames: Sequence[Frame]) -> Callable[[], object]:
    return lambda: [predictor.run(frame) for frame in frames]


def network_bars(rows: Sequence[Row], judged: bool) -> list[Bar]:
    """What the networks take in OpenVINO on the sample frames, in units."""
    found = {(row.model, row.precision): row.units for row in rows if row.load == TYPICAL and row.engine == "openvino"}
    return [
        Bar(
            f"{key}, OpenVINO {precision}: units a frame",
            *(limit, found.get((key, precision)), False, judged),
            "not available here" if precision not in precisions() else "not measured",
        )
        for precision, limits in UNIT_BARS.items()
        for key, limit in limits.items()
    ]


def rows_table(rows: Sequence[Row]) -> Table:
    """Every network in every engine."""
    table = Table("model", "load", "engine", title="Frame in, detections out")
    for heading in ("objects", "ms", "units", "over OpenVINO"):
        table.add_column(heading, justify="right")
    base = {(row.model, row.load): row.frame_ms for row in rows if (row.engine, row.precision) == ("openvino", "fp32")}
    for row in rows:
        over = row.frame_ms / base[row.model, row.load]
        cells = (f"{row.objects:.0f}", f"{row.frame_ms:.1f}", f"{row.units:.2f}", f"{over:.2f}")
        table.add_row(row.model, row.load, f"{row.engine} {row.precision}", *cells)
    return table


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15, help="timed runs of each after the warm-up (default 15)")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="nano|small=FILE", help="trained weights")
    parser.add_argument("--json", type=Path, help="write the record to this file")
    parser.add_argument("--quick", action="store_true", help="the nano model alone, two runs; nothing is judged")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write what is asked for."""
    options = parse()
    restart_with_quiet_threads()
    torch.set_num_threads(options.threads)
    console, runs = Console(width=120), 2 if options.quick else options.runs
    checkpoints = dict(each.split("=", 1) for each in options.checkpoint)
    frames = sample_frames(640)
    opened: list[tuple[Row, Predictor]] = []
    models: dict[str, Candidate] = {}
    with tempfile.TemporaryDirectory(prefix="rs4d-network-") as folder:
        for key in ("nano",) if options.quick else MODELS:
            named = checkpoints.get(key)
            models[key] = candidate(MODELS[key], Path(named) if named else None, frames[0])
            loads = {TYPICAL: models[key].model, WORST: without_threshold(models[key].model)}
            for load, model in loads.items():
                console.print(f"{MODELS[key]}, {load} ...")
                opened += open_all(key, load, model, frames, Path(folder), options.threads)
        gemms = measure(opened, frames, options.threads, runs)
    rows = [row for row, _ in opened]
    bars = network_bars(rows, judged=not options.quick)
    console.print(rows_table(rows))
    console.print(bars_table(bars))
    record: dict[str, Any] = {
        "benchmark": "network",
        "machine": machine_record(("openvino", "onnxruntime", "torch")),
        "threads": options.threads,
        "runs": runs,
        "frames_hw": [list(frame.shape[:2]) for frame in frames],
        "weights": {key: each.weights for key, each in models.items()},
        "gemm_ms": gemms,
        "rows": [asdict(row) for row in rows],
        "bars": [bar.record() for bar in bars],
    }
    for key, each in models.items():
        console.print(f"{key}: weights {each.weights}")
    if options.json is not None:
        write_json(record, options.json)


if __name__ == "__main__":
    main()
