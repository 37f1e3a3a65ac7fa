"""Compile the CUDA kernels: `python -m rs4d_edge.native.cuda_build [--output DIR]`.

Writes a fat binary with code for every GPU of ARCHITECTURES, and PTX, which the driver compiles for any later one.
Needs nvcc, but no GPU. Where there is no nvcc, cuda_nvrtc.py compiles the same sources for the GPU at hand.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from rs4d_edge.errors import RuntimeUnavailable

SOURCE_DIR = Path(__file__).resolve().parent
TOOLKITS = Path("/usr/local")  # where the toolkit's installers put their folders cuda, cuda-12.8, ...
KERNEL_SOURCE = "cuda_kernels.cu"
HEADERS = ("cuda_device.cuh", "cuda_scan.cuh", "cuda_mixer.cuh", "cuda_selection.cuh", "cuda_roi_align.cuh")
ARCHITECTURES = (75, 80, 86, 87, 89, 90)  # T4; A100; RTX 30; Jetson Orin; RTX 40, L4; H100
_PTX = f"compute_{ARCHITECTURES[0]}"  # the kernels use nothing newer, so one PTX serves all
# Denormals count as zero, as on the CPU; nothing else of --use_fast_math is wanted. NVRTC takes the same.
COMPILE_FLAGS = ("--std=c++17", "--ftz=true")


class CudaBuild(NamedTuple):
    """What a build wrote, and ptxas' report: registers, shared memory and spills of every kernel and architecture."""

    fatbin: Path
    ptx: Path
    report: str


def find_nvcc() -> str:
    """The CUDA compiler's path: on PATH, else in `$CUDA_HOME` or /usr/local/cuda*, the newest first.

    Raises:
        RuntimeUnavailable: there is none; says where it was looked for.
    """
    home = os.environ.get("CUDA_HOME")
    installed = sorted(TOOLKITS.glob("cuda*"), key=_version, reverse=True)
    folders = [*([Path(home)] if home else []), *installed]
    candidates = [shutil.which("nvcc"), *(shutil.which("nvcc", path=str(folder / "bin")) for folder in folders)]
    if found := next(filter(None, candidates), None):
        return found
    raise RuntimeUnavailable(
        "no CUDA compiler: nvcc is neither on PATH nor in $CUDA_HOME/bin nor in /usr/local/cuda*/bin; install the CUDA "
        "toolkit and set CUDA_HOME, or leave it to NVRTC, which torch's CUDA wheels bring"
    )


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.removeprefix("cuda").strip("-").split(".") if part.isdigit())


def fatbin_path(output_dir: Path = SOURCE_DIR) -> Path:
    """Where the fat binary of these sources lies once it is built; the name carries their digest."""
    return output_dir / f"_rs4d_cuda-{_source_digest()}.fatbin"


def build_cuda(output_dir: Path = SOURCE_DIR, architectures: tuple[int, ...] = ARCHITECTURES) -> CudaBuild:
    """Compile into `output_dir`. Both files appear whole or not at all.

    Raises:
        RuntimeUnavailable: no nvcc, it failed (the message carries the end of its output), or the folder is read-only.
    """
    nvcc, fatbin = find_nvcc(), fatbin_path(output_dir)
    ptx = fatbin.with_suffix(".ptx")
    code = ",".join([*(f"sm_{number}" for number in architectures), _PTX])
    binary = ("-Xptxas", "-v", "-gencode", f"arch={_PTX},code=[{code}]", "-fatbin")
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output_dir, prefix=".build-") as folder:
            built, portable = Path(folder) / fatbin.name, Path(folder) / ptx.name
            report = _compile(nvcc, (*binary, "-o", str(built)))
            _compile(nvcc, (f"-arch={_PTX}", "-ptx", "-o", str(portable)))
            os.replace(portable, ptx)
            os.replace(built, fatbin)
    except OSError as error:
        raise RuntimeUnavailable(f"the CUDA kernels cannot be built into {output_dir}: {error}") from error
    return CudaBuild(fatbin, ptx, report)


def _compile(nvcc: str, options: tuple[str, ...]) -> str:
    command = [nvcc, *COMPILE_FLAGS, *options, str(SOURCE_DIR / KERNEL_SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeUnavailable(
            f"compiling {KERNEL_SOURCE} failed with exit code {done.returncode}: {' '.join(command)}\n"
            f"{done.stderr[-2000:]}"
        )
    return done.stdout + done.stderr


@functools.cache
def _source_digest() -> str:
    """Twelve hexadecimal digits over the sources and the flags: a binary of other sources is never loaded."""
    digest = hashlib.sha256(repr((COMPILE_FLAGS, ARCHITECTURES)).encode())
    for name in (KERNEL_SOURCE, *HEADERS):
        digest.update((SOURCE_DIR / name).read_bytes())
    return digest.hexdigest()[:12]


def main() -> int:
    """Entry point of the module; exit code 1 where it cannot be built, with the reason on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m rs4d_edge.native.cuda_build", description="Build the CUDA kernels."
    )
    parser.add_argument("--output", type=Path, default=SOURCE_DIR, help="folder to write into (default: the package's)")
    arguments = parser.parse_args()
    try:
        build = build_cuda(arguments.output)
    except RuntimeUnavailable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{build.fatbin}\n{build.ptx}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
