"""The base encoder against its floor, against the published code and against SAM ViT-B: `python -m benchmarks.encoder`.

    python -m benchmarks.encoder --json encoder.json --plot encoder.png     # the whole: about a quarter of an hour
    python -m benchmarks.encoder --quick                                    # cut-down encoders, to see that it runs

Random weights, one normalised image, at 512, 1024 and 2048 pixels, in OpenVINO (fp32, and bf16 where the processor has
it) and ONNX Runtime. All are timed in turns in this one process; the memory of each is the peak of a process of its
own. Ratios are what can be compared across machines. Give it an idle one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.encoder_plot import draw
from benchmarks.encoder_sizes import ORT, OURS, PUBLISHED, SAM, Settings, SizeResult, measure_size
from benchmarks.measuring import Bar, bars_table, has_bf16, ratio, restart_with_quiet_threads
from rs4d_edge.machine import machine_record
from rs4d_edge.native.library import load_native_scan
from rs4d_edge.whole_file import write_json

SIZES, QUICK_SIZES = (512, 1024, 2048), (128, 256)
JUDGED_SIZE, LARGE_SIZE = 1024, 2048
AGAINST_FLOOR, AGAINST_OPENVINO = 2.5, 1.5  # at most
AGAINST_PUBLISHED = {"fp32": 25.0, "bf16": 35.0}  # at least, as the following
AGAINST_SAM = {"fp32": 3.5, "bf16": 2.4}


def encoder_bars(results: Sequence[SizeResult], judged: bool) -> list[Bar]:
    """The bars at the judged size, and SAM at the large one."""
    by_size = {result.size: result for result in results}
    at, large = by_size.get(JUDGED_SIZE, results[-1]), by_size.get(LARGE_SIZE)
    judged = judged and at.size == JUDGED_SIZE
    bars = [bar for precision in ("fp32", "bf16") for bar in precision_bars(at, large, precision, judged)]
    over_openvino = ratio(at.times.get(f"{ORT} fp32"), at.times.get(f"{OURS} fp32"))
    bars.append(Bar(f"ONNX Runtime over OpenVINO, fp32, {at.size} px", AGAINST_OPENVINO, over_openvino, judged=judged))
    return bars


def precision_bars(at: SizeResult, large: SizeResult | None, precision: str, judged: bool) -> list[Bar]:
    """OpenVINO in one precision against its floor, the published code, and SAM at two sizes."""
    ours, floor_ms = at.times.get(f"{OURS} {precision}"), at.floor_ms.get(precision)
    over_floor = None if ours is None or floor_ms is None else ours.median_ms / floor_ms
    published = ratio(at.times.get(f"{PUBLISHED} fp32"), ours)
    over_sam = _sam_ratio(at, precision)
    over_sam_large = None if large is None else _sam_ratio(large, precision)
    more = AGAINST_SAM[precision] if over_sam is None else round(over_sam, 2)
    absent = "not available here" if ours is None else "not measured"
    px = f"{at.size} px"
    named = (
        (f"OpenVINO {precision} over its floor, {px}", AGAINST_FLOOR, over_floor, False),
        (f"published code (torch fp32) over OpenVINO {precision}, {px}", AGAINST_PUBLISHED[precision], published, True),
        (f"SAM ViT-B over ours, OpenVINO {precision}, {px}", AGAINST_SAM[precision], over_sam, True),
        (f"the same at {LARGE_SIZE} px: more than at {px}", more, over_sam_large, True),
    )
    return [Bar(*each, judged, absent) for each in named]


def _sam_ratio(result: SizeResult, precision: str) -> float | None:
    return ratio(result.times.get(f"{SAM} {precision}"), result.times.get(f"{OURS} {precision}"))


def results_table(results: Sequence[SizeResult]) -> Table:
    """Every form at every size: time, the ratio to ours in OpenVINO of the same precision, peak memory."""
    table = Table("pixels", "tokens", "encoder", title="Medians")
    for heading in ("ms", "runs", "over ours", "peak MB", "error"):
        table.add_column(heading, justify="right")
    for result in results:
        for name, times in sorted(result.times.items()):
            over = ratio(times, result.times.get(f"{OURS} {name.rsplit(' ', 1)[-1]}"))
            weighed = result.memory.get(name)
            peak = "-" if weighed is None else f"{weighed['peak_bytes'] / 1e6:.0f}"
            error = result.relative_error.get(name)
            cells = (f"{times.median_ms:.1f}", str(times.runs), "-" if over is None else f"{over:.2f}", peak)
            shown = "-" if error is None else f"{error:.0e}"
            table.add_row(str(result.size), str(result.tokens), name, *cells, shown)
        for precision, value in result.floor_ms.items():
            table.add_row(str(result.size), str(result.tokens), f"floor {precision}", f"{value:.1f}", *"----")
        table.add_section()
    return table


def notes(results: Sequence[SizeResult]) -> list[str]:
    """What a reader of the figures must know besides."""
    lines = []
    if not has_bf16():
        lines.append("bf16: not available here, this processor has no bf16 instructions")
    for result in results:
        if result.sam_by_heads:
            all_heads_gb = 12 * result.tokens**2 * 4e-9
            lines.append(
                f"SAM at {result.size} px: global attention one head at a time, because each attention matrix of all "
                f"heads would take {all_heads_gb:.0f} GB"
            )
        lines += [
            f"{name} at {result.size} px: its process was ended, as happens when memory is short"
            for name, weighed in result.memory.items()
            if weighed is None
        ]
    return lines


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each after the warm-up (default 7)")
    parser.add_argument("--published-runs", type=int, default=2, help="those of the published code (default 2)")
    parser.add_argument("--sizes", type=int, nargs="+", help=f"image sizes in pixels (default {SIZES})")
    parser.add_argument("--json", type=Path, help="write the record to this file")
    parser.add_argument("--plot", type=Path, help="draw time and memory against tokens into this PNG")
    parser.add_argument("--quick", action="store_true", help="cut-down encoders at small sizes; nothing is judged")
    return parser.parse_args()


def settings_of(options: argparse.Namespace, sizes: Sequence[int]) -> Settings:
    """Whole encoders, or cut-down ones for a quick run."""
    whole = Settings(options.threads, options.runs, JUDGED_SIZE, options.published_runs, LARGE_SIZE)
    if not options.quick:
        return whole
    return Settings(options.threads, min(2, options.runs), max(sizes), 1, LARGE_SIZE, depth=2, sam_layers=3)


def make_record(results: Sequence[SizeResult], options: argparse.Namespace) -> dict[str, Any]:
    """What is written as JSON, of the sizes that are measured so far."""
    return {
        "benchmark": "encoder",
        "machine": machine_record(("openvino", "onnxruntime", "torch", "transformers")),
        "isa": load_native_scan().isa,
        "threads": options.threads,
        "quick": options.quick,
        "sizes": [result.record() for result in results],
        "bars": [bar.record() for bar in encoder_bars(results, judged=not options.quick)],
        "notes": notes(results),
    }


def main() -> None:
    """Measure, print, and write what is asked for; the record after every size, so that little is lost."""
    options = parse()
    restart_with_quiet_threads()
    torch.set_num_threads(options.threads)
    console = Console(width=120)
    sizes = tuple(options.sizes or (QUICK_SIZES if options.quick else SIZES))
    settings = settings_of(options, sizes)
    results: list[SizeResult] = []
    with tempfile.TemporaryDirectory(prefix="rs4d-encoder-") as folder:
        for size in sizes:
            begin = time.perf_counter()
            results.append(measure_size(size, settings, Path(folder)))
            record = make_record(results, options)
            if options.json is not None:
                write_json(record, options.json)
            console.print(f"{size} pixels: measured in {time.perf_counter() - begin:.0f} s")
    console.print(results_table(results))
    console.print(bars_table(encoder_bars(results, judged=not options.quick)))
    for line in record["notes"]:
        console.print(line)
    if options.plot is not None:
        draw(record, options.plot)


if __name__ == "__main__":
    main()
