"""Time the selective scan on the CPU: `python -m benchmarks.scan [--threads 2] [--runs 15] [--json FILE]`.

Both directions at the base encoder's size in one call, into buffers that are there, as a ratio to one fp32 matrix
product of in_proj's size in torch; each instruction set; the cost of a token against the sequence's length; training;
the largest error against fp64. All are timed in turns. Give it an idle machine: the ratios are what can be compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.measuring import Bar, Timed, Times, bars_table, restart_with_quiet_threads, take_turns
from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.machine import machine_record
from rs4d_edge.native.library import NativeScan, ScanShape, load_native_scan
from rs4d_edge.reference.scan import selective_scan, selective_scan_chunked, selective_scan_reference
from rs4d_edge.whole_file import write_json

CHANNELS, STATES, LENGTH = 512, 16, 4096
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
AGAINST_GEMM, SPREAD, ERROR = 0.55, 0.10, 1e-6  # at most


def make_inputs(length: int, channels: int = CHANNELS, states: int = STATES) -> list[Tensor]:
    """u, delta in [1e-3, 1], a in [-64, -1], b, c, d for one sequence."""
    random = torch.Generator().manual_seed(0)
    delta = torch.exp(torch.rand(1, length, channels, generator=random) * 6.9 - 6.9)
    a = -torch.exp(torch.rand(channels, states, generator=random) * 4.15)
    u, skip = torch.randn(1, length, channels, generator=random), torch.randn(channels, generator=random)
    b, c = (torch.randn(1, length, states, generator=random) for _ in range(2))
    return [u, delta, a, b, c, skip]


def both_directions(native: NativeScan, length: int, threads: int) -> Callable[[], None]:
    """What one layer of the encoder computes: the two directions, each with arrays of its own."""
    pair = [make_inputs(length), make_inputs(length)]
    results = [torch.empty(1, length, CHANNELS) for _ in pair]
    shape = ScanShape(1, length, CHANNELS, STATES)

    def both() -> None:
        ahead, back = (tuple(tensor.data_ptr() for tensor in inputs) for inputs in pair)
        native.bidirectional((ahead, back), shape, (results[0].data_ptr(), results[1].data_ptr()), threads=threads)

    return both


def scan_functions(native: NativeScan, threads: int, runs: int) -> dict[str, Timed]:
    """The product, both directions beside it, and as many tokens as the longest sequence has at every length."""
    tokens, weight = torch.randn(4096, 256), torch.randn(1024, 256)
    functions = {
        "gemm": Timed(lambda: torch.nn.functional.linear(tokens, weight), runs),
        "scan": Timed(both_directions(native, LENGTH, threads), runs),
    }
    for length in LENGTHS:
        call = both_directions(native, length, threads)
        functions[f"length {length}"] = Timed(_repeated(call, LENGTHS[-1] // length), runs)
    return functions


def _repeated(call: Callable[[], None], times: int) -> Callable[[], None]:
    """The call over and over, as layer follows layer: waking the threads once must not count for the short alone."""

    def repeat() -> None:
        for _ in range(times):
            call()

    return repeat


def measure_forms(native: NativeScan, threads: int, runs: int) -> dict[str, float]:
    """Milliseconds of both directions by each instruction set, and of one by the chunked torch form."""
    both, times = both_directions(native, LENGTH, threads), {}
    for name in ("avx512", "avx2", "base"):
        try:
            native.select_isa(name)
        except RuntimeUnavailable:
            continue
        times[native.isa] = take_turns({"": Timed(both, runs)})[""].median_ms
    native.select_isa("auto")
    inputs = make_inputs(LENGTH)
    chunked = Timed(lambda: selective_scan_chunked(*inputs), 1)
    times["torch chunked, one direction"] = take_turns({"": chunked})[""].median_ms
    return times


def measure_training(runs: int) -> dict[str, float]:
    """Milliseconds of forward and backward at a size of the edge family, batch 8."""
    inputs = [x.expand(8, *x.shape[1:]).contiguous() if x.ndim == 3 else x for x in make_inputs(1600, 192, 8)]
    leaves = [x.requires_grad_() for x in inputs]
    weights = torch.ones_like(leaves[0])
    y = selective_scan(*leaves)
    functions = {
        "forward_ms": Timed(lambda: selective_scan(*leaves), runs),
        "backward_ms": Timed(lambda: torch.autograd.grad(y, leaves, weights, retain_graph=True), runs),
    }
    return {name: times.median_ms for name, times in take_turns(functions).items()}


def relative_error() -> float:
    """Largest difference to the fp64 oracle over the largest value, on 1024 tokens, either direction."""
    inputs = make_inputs(1024, 64)
    errors = []
    for reverse in (False, True):
        wanted = selective_scan_reference(*[x.double() for x in inputs], reverse=reverse)
        errors.append(float((selective_scan(*inputs, reverse=reverse) - wanted).abs().max() / wanted.abs().max()))
    return max(errors)


def scan_bars(times: dict[str, Times], error: float) -> list[Bar]:
    """Against the product, against the length, against fp64."""
    costs = us_per_token(times)
    return [
        Bar(
            f"both directions, {LENGTH} tokens, over the product",
            AGAINST_GEMM,
            times["scan"].median_ms / times["gemm"].median_ms,
        ),
        Bar("dearest over cheapest token, less 1", SPREAD, max(costs.values()) / min(costs.values()) - 1.0),
        Bar("largest error against fp64, in 1e-6", ERROR * 1e6, error * 1e6),
    ]


def us_per_token(times: dict[str, Times]) -> dict[int, float]:
    """Microseconds a token, both directions, for each sequence length."""
    return {each: times[f"length {each}"].median_ms * 1e3 / LENGTHS[-1] for each in LENGTHS}


def main() -> None:
    """Measure, print, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15, help="timed runs after the warm-up (default 15)")
    parser.add_argument("--json", type=Path, help="write the record to this file")
    options = parser.parse_args()
    restart_with_quiet_threads()
    torch.set_num_threads(options.threads)
    native, console = load_native_scan(), Console(width=120)
    times = take_turns(scan_functions(native, options.threads, options.runs))
    error = relative_error()
    bars = scan_bars(times, error)
    record: dict[str, Any] = {
        "benchmark": "scan",
        "machine": machine_record(("torch",)),
        "isa": native.isa,
        "threads": options.threads,
        "runs": options.runs,
        "times": {name: each._asdict() for name, each in times.items()},
        "us_per_token": us_per_token(times),
        "relative_error": error,
        "both_directions_ms": measure_forms(native, options.threads, options.runs),
        "training_batch8_1600x192x8": measure_training(options.runs),
        "bars": [bar.record() for bar in bars],
    }
    console.print_json(data=record)
    console.print(bars_table(bars))
    if options.json is not None:
        write_json(record, options.json)


if __name__ == "__main__":
    main()
