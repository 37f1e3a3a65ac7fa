"""Build the native scan in place: `python -m rs4d_edge.native.build [--openvino]`.

With `--openvino` also the extension that lets OpenVINO call it, against the installed openvino wheel. Every build is
written under a temporary name and renamed, so that another process never loads half a library.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rs4d_edge.errors import RuntimeUnavailable

SOURCE_DIR = Path(__file__).resolve().parent
KERNEL_SOURCES = ("scan.cpp", "mixer.cpp", "parallel.cpp", "scan_avx512.cpp", "scan_avx2.cpp", "scan_base.cpp")
EXTENSION_SOURCE = "openvino_extension.cpp"
LIBRARY_SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"
LIBRARY_NAME = "_rs4d_scan" + LIBRARY_SUFFIX
_LINUX_LINK_FLAGS = ("-Wl,-Bsymbolic", "-Wl,-z,defs")  # its own copy of the kernel, whatever else is loaded
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
EXTENSION_FLAGS = ("-DRS4D_TBB", "-D_GLIBCXX_USE_CXX11_ABI=1")  # the wheel's thread pool and its strings


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
    """Compile `sources` into the shared library `output`.

    Raises:
        RuntimeUnavailable: the compiler failed or the folder cannot be written; carries the end of the output.
    """
    try:
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
    except OSError as error:
        raise RuntimeUnavailable(f"{output.name} cannot be built into {output.parent}: {error}") from error
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


def extension_path(output_dir: Path = SOURCE_DIR) -> Path:
    """Where the OpenVINO extension for the installed openvino and these sources lies once it is built.

    The name carries OpenVINO's exact version, which its C++ interface is bound to, and a digest of our sources.

    Raises:
        RuntimeUnavailable: openvino is not installed.
    """
    version = re.sub(r"[^A-Za-z0-9.]+", "_", _openvino_version())
    return output_dir / f"_rs4d_openvino-{version}-{_source_digest()}{LIBRARY_SUFFIX}"


def build_openvino_extension(output_dir: Path = SOURCE_DIR) -> Path:
    """Build the extension against the installed openvino wheel's headers and libraries, and return its path.

    Raises:
        RuntimeUnavailable: no compiler, no openvino, or the build failed.
    """
    compiler, output, wheel = find_compiler(), extension_path(output_dir), _openvino_dir()
    libraries = [_only(wheel / "libs", name) for name in ("libopenvino", "libopenvino_onnx_frontend", "libtbb")]
    flags = [
        *(*COMPILE_FLAGS, *EXTENSION_FLAGS, "-isystem", str(wheel / "include")),
        *(*map(str, libraries), f"-Wl,-rpath,{wheel / 'libs'}"),
        *(_LINUX_LINK_FLAGS if sys.platform == "linux" else ()),
    ]
    sources = [SOURCE_DIR / name for name in (EXTENSION_SOURCE, *KERNEL_SOURCES)]
    return compile_library(compiler, sources, output, flags)


def _only(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"{name}{LIBRARY_SUFFIX}*" if sys.platform == "linux" else f"{name}.*{LIBRARY_SUFFIX}"))
    if not found:
        raise RuntimeUnavailable(
            f"the installed openvino has no {name} in {folder}: install openvino from PyPI's wheel"
        )
    return found[0]


def _openvino_version() -> str:
    try:
        return importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError as error:
        raise RuntimeUnavailable('openvino is not installed: pip install "rs4d-edge[openvino]"') from error


def _openvino_dir() -> Path:
    spec = importlib.util.find_spec("openvino")
    if spec is None or spec.origin is None:
        raise RuntimeUnavailable('openvino is not installed: pip install "rs4d-edge[openvino]"')
    return Path(spec.origin).resolve().parent


def extension_files() -> list[Path]:
    """The sources of the OpenVINO extension and every header that they may include, sorted."""
    headers = [path for path in SOURCE_DIR.glob("*.h") if not path.name.startswith("onnxruntime")]
    return sorted([*headers, *(SOURCE_DIR / name for name in (EXTENSION_SOURCE, *KERNEL_SOURCES))])


@functools.cache
def _source_digest() -> str:
    """Twelve hexadecimal digits over the sources, the flags and the wheel's place, which stands in the extension."""
    flags = (COMPILE_FLAGS, EXTENSION_FLAGS, _LINUX_LINK_FLAGS, str(_openvino_dir()))
    digest = hashlib.sha256(repr(flags).encode())
    for path in extension_files():
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def main() -> int:
    """Entry point of the module; exit code 1 where it cannot be built, with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m rs4d_edge.native.build", description="Build the native scan.")
    parser.add_argument("--openvino", action="store_true", help="also build OpenVINO's scan extension")
    arguments = parser.parse_args()
    try:
        print(build_kernel())
        if arguments.openvino:
            print(build_openvino_extension())
    except RuntimeUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
