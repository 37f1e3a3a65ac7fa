"""The peak memory of a bundle, in a process of its own that opens it and runs a few frames.

`python -m rs4d_edge.commands.peak_memory BUNDLE THREADS IMAGE...`, as `peak_memory` calls it, runs each image once and
prints JSON: `peak_bytes`, and `before_bytes`, the part from before the model was opened.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rs4d_edge.bench.peak import resident_peak_bytes
from rs4d_edge.bundle import open_bundle
from rs4d_edge.errors import RS4DError
from rs4d_edge.frames import read_image
from rs4d_edge.predictor import Predictor
from rs4d_edge.runtimes.table import runtime_module


class PeakMemory(NamedTuple):
    """Bytes at the peak and before the model was opened; where they are not known, `absent` says why."""

    peak_bytes: int | None
    before_bytes: int | None
    absent: str | None = None


def peak_memory(bundle: Path, threads: int, images: Sequence[Path]) -> PeakMemory:
    """Open the bundle in a fresh process and run each image once. Not known if the process fails or is ended."""
    command = [sys.executable, "-m", "rs4d_edge.commands.peak_memory", str(bundle), str(threads), *map(str, images)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return PeakMemory(None, None, f"the process ended with status {done.returncode}: {last}")
    figures = json.loads(done.stdout.splitlines()[-1])
    return PeakMemory(int(figures["peak_bytes"]), int(figures["before_bytes"]))


def measure(bundle: Path, threads: int, images: Sequence[Path]) -> PeakMemory:
    """Run in this process; images are decoded one at a time, as a device meets frames."""
    runtime_module(open_bundle(bundle).manifest.runtime)  # imports the engine
    before = resident_peak_bytes()
    with Predictor(bundle, threads=threads) as predictor:
        for path in images:
            predictor.run(read_image(path), color="BGR")
    return PeakMemory(resident_peak_bytes(), before)


def main() -> None:
    """Measure in this process and print."""
    bundle, threads, *images = sys.argv[1:]
    try:
        found = measure(Path(bundle), int(threads), [Path(image) for image in images])
    except RS4DError as error:
        raise SystemExit(str(error)) from error
    print(json.dumps({"peak_bytes": found.peak_bytes, "before_bytes": found.before_bytes}))


if __name__ == "__main__":
    main()
