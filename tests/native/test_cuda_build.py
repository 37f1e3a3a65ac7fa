"""The CUDA kernels compiled for every architecture, which needs no GPU. What they compute, cuda_emulation checks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.native import cuda_build
from rs4d_edge.native.cuda_build import ARCHITECTURES, CudaBuild, build_cuda, fatbin_path, find_nvcc
from rs4d_edge.native.cuda_nvrtc import compile_for, load_nvrtc

KERNELS = {
    f"rs4d_{kernel}_{element}{suffix}"
    for element in ("f32", "f16", "bf16")
    for kernel, suffix in [
        *((k, n) for k in ("scan", "states") for n in ("_n8", "_n16")),
        *((k, "") for k in ("conv", "gate", "roi_align")),
    ]
} | {"rs4d_nms_overlaps", "rs4d_nms_settle"}
SHARED_LIMIT = 48 * 1024  # bytes of a block on every architecture, without asking for more


class Resources(NamedTuple):
    """What one kernel takes on one architecture, in bytes."""

    stack: int
    spills: int
    shared: int


def read_report(report: str) -> dict[tuple[str, str], Resources]:
    """By kernel and architecture, from `ptxas -v`."""
    entry = re.compile(
        r"Compiling entry function '(?P<name>\w+)' for '(?P<arch>sm_\d+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
        r"Used \d+ registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    found = {}
    for match in entry.finditer(report):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        spills = int(match["stores"]) + int(match["loads"])
        found[match["name"], match["arch"]] = Resources(int(match["stack"]), spills, int(shared[1]) if shared else 0)
    return found


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> CudaBuild:
    try:
        find_nvcc()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    return build_cuda(tmp_path_factory.mktemp("cuda"))


def test_every_kernel_is_there_for_every_architecture(build: CudaBuild) -> None:
    wanted = {(kernel, f"sm_{number}") for kernel in KERNELS for number in ARCHITECTURES}
    assert set(read_report(build.report)) == wanted
    entries = set(re.findall(r"\.entry (\w+)", build.ptx.read_text()))
    assert entries == KERNELS
    assert build.fatbin.read_bytes()[:4] == b"\x50\xed\x55\xba"  # the mark of a fat binary
    assert re.findall(r"\.target (\w+)", build.ptx.read_text()) == ["sm_75"]


def test_nothing_spills_and_shared_memory_fits(build: CudaBuild) -> None:
    for (kernel, architecture), resources in read_report(build.report).items():
        assert resources.spills == resources.stack == 0, (kernel, architecture)
        assert resources.shared <= SHARED_LIMIT, (kernel, architecture)
        shares = any(part in kernel for part in ("scan", "states", "nms"))
        assert (resources.shared > 0) == shares, (kernel, architecture)


def test_the_report_is_read_as_ptxas_writes_it() -> None:
    report = (
        "ptxas info    : Compiling entry function 'rs4d_scan_f32_n16' for 'sm_75'\n"
        "ptxas info    : Function properties for rs4d_scan_f32_n16\n"
        "    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n"
        "ptxas info    : Used 120 registers, used 1 barriers, 14336 bytes smem, 452 bytes cmem[0]\n"
    )
    assert read_report(report) == {("rs4d_scan_f32_n16", "sm_75"): Resources(16, 12, 14336)}


def test_a_machine_without_nvcc_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(cuda_build, "TOOLKITS", tmp_path)
    with pytest.raises(RuntimeUnavailable, match="install the CUDA toolkit"):
        find_nvcc()
    monkeypatch.setattr("sys.argv", ["cuda_build", "--output", str(tmp_path)])
    assert cuda_build.main() == 1
    assert list(tmp_path.iterdir()) == []


def test_the_newest_toolkit_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("cuda-9.2", "cuda-12.8", "cuda-12.10"):
        compiler = tmp_path / name / "bin" / "nvcc"
        compiler.parent.mkdir(parents=True)
        compiler.write_text("#!/bin/sh\n")
        compiler.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(cuda_build, "TOOLKITS", tmp_path)
    assert Path(find_nvcc()).parts[-3] == "cuda-12.10"


def test_a_failing_compiler_is_quoted_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler, output = tmp_path / "nvcc", tmp_path / "output"
    compiler.write_text("#!/bin/sh\necho broken beyond repair >&2\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(cuda_build, "find_nvcc", lambda: str(compiler))
    with pytest.raises(RuntimeUnavailable, match=r"exit code 3[^$]*broken beyond repair"):
        build_cuda(output)
    assert list(output.iterdir()) == []


def test_the_name_changes_with_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = fatbin_path(tmp_path).name
    monkeypatch.setattr(cuda_build, "COMPILE_FLAGS", ("--std=c++20",))
    cuda_build._source_digest.cache_clear()
    assert fatbin_path(tmp_path).name != name
    monkeypatch.undo()
    cuda_build._source_digest.cache_clear()
    assert fatbin_path(tmp_path).name == name


@pytest.mark.parametrize(("architecture", "start"), [("sm_87", b"\x7fELF"), ("compute_75", b"//")])
def test_nvrtc_compiles_the_sources_without_any_header(architecture: str, start: bytes) -> None:
    try:
        load_nvrtc()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    code = compile_for(architecture)
    assert code.startswith(start)
    assert all(kernel.encode() in code for kernel in KERNELS)
