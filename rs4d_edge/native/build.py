"""Build the native scan in place: `python -m rs4d_edge.native.build`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rs4d_edge.errors import RuntimeUnavailable

SOURCE_DIR = Path(__file__).resolve().parent
KERNEL_SOURCES = ("scan.cpp", "parallel.cpp", "scan_avx512.cpp", "scan_avx2.cpp", "scan_base.cpp")
LIBRARY_NAME = "_rs4d_scan" + (".dylib" if sys.platform == "darwin" else ".so")
# Contraction into fused multiply-adds is what the accuracy was measured with; nothing else of -ffast-math is wanted.
COMPILE_FLAGS = (
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-Wno-psabi",
)


def find_compiler() -> str:
    """The C++ compiler's path: `$CXX`, else g++, c++ or clang++.

    Raises:
        RuntimeUnavailable: there is none; says which names were tried.
    """
    wanted = os.environ.get("CXX")
    names = [wanted.split()[0]] if wanted else ["g++", "c++", "clang++"]
    for name in names:
        if path := shutil.which(name):
            return path
    raise RuntimeUnavailable(
        f"no C++ compiler found (tried {', '.join(names)}): install g++ (Debian/Ubuntu: apt-get install g++) "
        "or set CXX, then run `python -m rs4d_edge.native.build`; everything works without it, only slower"
    )


def compile_library(compiler: str, sources: Sequence[Path], output: Path, flags: Sequence[str]) -> Path:
    """Compile `sources` into the shared library `output`, written under a temporary name and renamed.

    Raises:
        RuntimeUnavailable: the compiler failed; carries the end of its output.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".build-") as folder:
        built = Path(folder) / output.name
        command = [compiler, "-shared", *map(str, sources), "-o", str(built), *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeUnavailable(
                f"building {output.name} failed with exit code {done.returncode}: {' '.join(command)}\n"
                f"{done.stderr[-2000:]}"
            )
        os.replace(built, output)
    return output


def build_kernel(output_dir: Path = SOURCE_DIR) -> Path:
    """Build the scan library into `output_dir` and return its path. OpenMP is used where the compiler has it."""
    compiler = find_compiler()
    sources = [SOURCE_DIR / name for name in KERNEL_SOURCES]
    output = output_dir / LIBRARY_NAME
    try:
        return compile_library(compiler, sources, output, [*COMPILE_FLAGS, "-fopenmp"])
    except RuntimeUnavailable:
        return compile_library(compiler, sources, output, [*COMPILE_FLAGS, "-pthread"])


def main() -> int:
    """Entry point of the module; exit code 1 where it cannot be built, with the reason on stderr."""
    try:
        path = build_kernel()
    except RuntimeUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{path} ({platform.machine()}, Python {sysconfig.get_python_version()})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
