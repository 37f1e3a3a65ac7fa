"""Time the selective scan on the CPU: `python benchmarks/scan.py [--threads 2] [--runs 9] [--json FILE]`.

Both directions at the base encoder's size, as a ratio to one fp32 matrix product of in_proj's size timed between the
same runs; one direction for each instruction set; the cost of a token against the sequence's length; the largest error
against fp64. Medians after warm-up. Give it an idle machine: the two ratios are what can be compared across machines.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.native.library import NativeScan, load_native_scan
from rs4d_edge.reference.scan import selective_scan, selective_scan_chunked, selective_scan_reference

CHANNELS, STATES, LENGTH = 512, 16, 4096
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
WARM_UP_RUNS = 3


def make_inputs(length: int, channels: int = CHANNELS, states: int = STATES) -> list[Tensor]:
    """u, delta in [1e-3, 1], a in [-64, -1], b, c, d for one sequence."""
    random = torch.Generator().manual_seed(0)
    delta = torch.exp(torch.rand(1, length, channels, generator=random) * 6.9 - 6.9)
    a = -torch.exp(torch.rand(channels, states, generator=random) * 4.15)
    u, skip = torch.randn(1, length, channels, generator=random), torch.randn(channels, generator=random)
    b, c = (torch.randn(1, length, states, generator=random) for _ in range(2))
    return [u, delta, a, b, c, skip]


def medians_ms(functions: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median milliseconds of each function. They take turns, so that a disturbance hits all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for run in range(WARM_UP_RUNS + runs):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            if run >= WARM_UP_RUNS:
                times[name].append((time.perf_counter() - begin) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def both_directions(inputs: list[Tensor]) -> None:
    """What one layer of the encoder computes."""
    selective_scan(*inputs)
    selective_scan(*inputs, reverse=True)


def measure_against_gemm(runs: int) -> dict[str, float]:
    """Milliseconds of both directions and of one fp32 product 4096x256x1024, and their ratio."""
    inputs, tokens, weight = make_inputs(LENGTH), torch.randn(4096, 256), torch.randn(1024, 256)
    times = medians_ms(
        {
            "scan_both_ms": lambda: both_directions(inputs),
            "gemm_ms": lambda: torch.nn.functional.linear(tokens, weight),
        },
        runs,
    )
    return {**times, "ratio": times["scan_both_ms"] / times["gemm_ms"]}


def measure_forms(native: NativeScan, runs: int) -> dict[str, float]:
    """Milliseconds of one direction by each instruction set, and by the chunked torch form."""
    inputs, times = make_inputs(LENGTH), {}
    for name in ("avx512", "avx2", "base"):
        try:
            native.select_isa(name)
        except RuntimeUnavailable:
            continue
        times[native.isa] = medians_ms({"": lambda: selective_scan(*inputs)}, runs)[""]
    native.select_isa("auto")
    times["torch chunked"] = medians_ms({"": lambda: selective_scan_chunked(*inputs)}, 1)[""]
    return times


def measure_lengths(runs: int) -> dict[int, float]:
    """Microseconds a token, both directions, for each sequence length."""
    costs = {}
    for length in LENGTHS:
        inputs = make_inputs(length)
        costs[length] = medians_ms({"": lambda: both_directions(inputs)}, runs)[""] * 1e3 / length  # noqa: B023
    return costs


def measure_training(runs: int) -> dict[str, float]:
    """Milliseconds of forward and backward at a size of the edge family, batch 8."""
    inputs = [x.expand(8, *x.shape[1:]).contiguous() if x.ndim == 3 else x for x in make_inputs(1600, 192, 8)]
    leaves = [x.requires_grad_() for x in inputs]
    weights = torch.ones_like(leaves[0])
    forward: Callable[[], Tensor] = lambda: selective_scan(*leaves)  # noqa: E731
    y = forward()
    backward: Callable[[], object] = lambda: torch.autograd.grad(y, leaves, weights, retain_graph=True)  # noqa: E731
    return medians_ms({"forward_ms": forward, "backward_ms": backward}, runs)


def relative_error() -> float:
    """Largest difference to the fp64 oracle over the largest value, on 1024 tokens."""
    inputs = make_inputs(1024, 64)
    wanted = selective_scan_reference(*[x.double() for x in inputs])
    return float((selective_scan(*inputs) - wanted).abs().max() / wanted.abs().max())


def main() -> None:
    """Measure, print, and write the record if asked."""
    parser = argparse.ArgumentParser(description="Time the selective scan on the CPU.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9, help="timed runs after the warm-up (default 9)")
    parser.add_argument("--json", type=Path, help="write the record to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    native = load_native_scan()
    lengths = measure_lengths(arguments.runs)
    record: dict[str, Any] = {
        "machine": {"processor": platform.machine(), "isa": native.isa, "torch": torch.__version__},
        "threads": arguments.threads,
        "runs": arguments.runs,
        "relative_error": relative_error(),
        "against_gemm": measure_against_gemm(arguments.runs),
        "one_direction_ms": measure_forms(native, arguments.runs),
        "us_per_token": lengths,
        "us_per_token_spread": max(lengths.values()) / min(lengths.values()) - 1.0,
        "training_batch8_1600x192x8": measure_training(arguments.runs),
    }
    print(json.dumps(record, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
