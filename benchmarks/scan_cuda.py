"""Time the CUDA scan: `python benchmarks/scan_cuda.py [--runs 20] [--json FILE]`. Needs an NVIDIA GPU.

Both directions of one sequence at the sizes in use, by events on the stream, medians after warm-up. Beside each time
the share of the bandwidth that a plain copy reaches on the same GPU in the same run: u, delta, b, c read once and y
written once. mamba_ssm's kernel is timed on the same arrays where it is installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rs4d_edge.reference.scan import _mamba_ssm_scan, selective_scan_reference
from rs4d_edge.reference.scan_cuda import CudaScan, cuda_scan_or_none

SIZES = ((1600, 256, 8), (1600, 384, 16), (4096, 512, 16), (16384, 512, 16), (65536, 512, 16))  # L, E, N
TYPES = (torch.float32, torch.float16, torch.bfloat16)
WARM_UP_RUNS = 5
COPY_BYTES = 2**28


def make_inputs(length: int, channels: int, states: int, dtype: torch.dtype) -> list[Tensor]:
    """Both directions' u, delta in [1e-3, 1], a in [-64, -1], b, c, d on the GPU."""
    random = torch.Generator("cuda").manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, device="cuda")

    tokens, narrow = (2, 1, length, channels), (2, 1, length, states)
    delta, a = torch.exp(uniform(*tokens) * 6.9 - 6.9), -torch.exp(uniform(channels, states) * 4.15)
    return [uniform(*tokens).to(dtype), delta.to(dtype), a, uniform(*narrow).to(dtype), uniform(*narrow).to(dtype),
            uniform(channels)]  # fmt: skip


def median_ms(function: Callable[[], object], runs: int) -> float:
    """Median milliseconds on the stream."""
    times = []
    for run in range(WARM_UP_RUNS + runs):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        if run >= WARM_UP_RUNS:
            times.append(float(begin.elapsed_time(end)))
    return statistics.median(times)


def copy_bytes_per_ms(runs: int) -> float:
    """What a copy reads and writes in a millisecond."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / median_ms(lambda: target.copy_(source), runs)


def relative_error(kernels: CudaScan, dtype: torch.dtype) -> float:
    """Largest difference to the fp64 oracle over the largest value, both directions of 512 tokens."""
    inputs = make_inputs(512, 64, 16, dtype)
    y, exact = kernels.scan(*inputs), [x.double() for x in inputs]
    halves = ([x[i] if x.dim() == 4 else x for x in exact] for i in range(2))
    wanted = torch.stack([selective_scan_reference(*half, reverse=i == 1) for i, half in enumerate(halves)])
    return float((y - wanted).abs().max() / wanted.abs().max())


def mamba_ssm_ms(inputs: list[Tensor], runs: int) -> float | None:
    """Both directions by mamba_ssm with its transposes; None where it is not installed."""
    try:
        import mamba_ssm  # noqa: F401
    except ImportError:
        return None
    u, delta, a, b, c, d = inputs

    def both() -> None:
        for i in range(2):
            _mamba_ssm_scan(u[i], delta[i], a, b[i], c[i], d, i == 1)

    return median_ms(both, runs)


def measure(kernels: CudaScan, runs: int) -> list[dict[str, Any]]:
    """One row for each size and type."""
    bandwidth, rows = copy_bytes_per_ms(runs), []
    for length, channels, states in SIZES:
        for dtype in TYPES:
            inputs = make_inputs(length, channels, states, dtype)
            moved = (3 * inputs[0].numel() + 2 * inputs[3].numel()) * inputs[0].element_size()
            time = median_ms(lambda: kernels.scan(*inputs), runs)  # noqa: B023
            row = {"length": length, "channels": channels, "states": states, "dtype": str(dtype), "ms": time}
            row |= {"share_of_copy_bandwidth": moved / bandwidth / time, "mamba_ssm_ms": mamba_ssm_ms(inputs, runs)}
            rows.append(row)
    return rows


def main() -> None:
    """Measure, print, and write the record if asked."""
    parser = argparse.ArgumentParser(description="Time the CUDA scan.")
    parser.add_argument("--runs", type=int, default=20, help="timed runs after the warm-up (default 20)")
    parser.add_argument("--json", type=Path, help="write the record to this file")
    arguments = parser.parse_args()
    kernels = cuda_scan_or_none(torch.device("cuda")) if torch.cuda.is_available() else None
    if kernels is None:
        raise SystemExit("benchmarks/scan_cuda.py: nothing measured: no CUDA device that torch and the kernels can use")
    record = {
        "machine": {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda},
        "runs": arguments.runs,
        "copy_gb_per_s": copy_bytes_per_ms(arguments.runs) / 1e6,
        "relative_error": {str(dtype): relative_error(kernels, dtype) for dtype in TYPES},
        "both_directions": measure(kernels, arguments.runs),
    }
    print(json.dumps(record, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
