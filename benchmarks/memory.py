"""The peak memory of one encoder in a process of its own.

`python -m benchmarks.memory RUNTIME MODEL PRECISION THREADS`, as `benchmarks.encoder` calls it. RUNTIME is one of
`rs4d_edge.runtimes.table`, or `published` with the size in pixels in place of MODEL. Runs twice and prints JSON:
`peak_bytes`, and `before_bytes`, the part that the process took before it loaded the model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from rs4d_edge.bench.peak import resident_peak_bytes

RUNS = 2


def measure_in_child(runtime: str, model: Path | int, precision: str, threads: int) -> dict[str, int] | None:
    """What a process of its own measures; None if it was ended, as the system does when memory is short."""
    command = [sys.executable, "-m", "benchmarks.memory", runtime, str(model), precision, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}\n")
        return None
    figures: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return figures


def run_engine(runtime: str, model: Path, precision: str, threads: int) -> int:
    """Load and run a model file; bytes that the process took before."""
    from rs4d_edge.runtimes.table import open_runtime, runtime_module

    runtime_module(runtime)  # imports the engine
    before = resident_peak_bytes()
    opened = open_runtime(runtime, model, threads=threads, precision=precision)
    random = np.random.default_rng(0)
    feeds = {spec.name: random.standard_normal(spec.shape).astype(spec.dtype) for spec in opened.inputs}
    for _ in range(RUNS):
        opened.run(feeds)
    opened.close()
    return before


def run_published(size: int, threads: int) -> int:
    """Run the published form in torch once; bytes that the process took before."""
    import torch

    from benchmarks.encoders import PublishedEncoder, base_encoder, sample_image

    torch.set_num_threads(threads)
    before = resident_peak_bytes()
    with torch.inference_mode():
        PublishedEncoder(base_encoder(size))(*sample_image(size))
    return before


def main() -> None:
    """Measure in this process and print."""
    runtime, model, precision, threads = sys.argv[1:]
    if runtime == "published":
        before = run_published(int(model), int(threads))
    else:
        before = run_engine(runtime, Path(model), precision, int(threads))
    print(json.dumps({"peak_bytes": resident_peak_bytes(), "before_bytes": before}))


if __name__ == "__main__":
    main()
