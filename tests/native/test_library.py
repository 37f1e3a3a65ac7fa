"""Finding, hiding and building the native library."""

from __future__ import annotations

from pathlib import Path

import pytest

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.native import build, library


def test_the_interface_version_is_the_header_s() -> None:
    header = (build.SOURCE_DIR / "scan.h").read_text()
    assert f"#define RS4D_ABI_VERSION {library.ABI_VERSION}\n" in header


def test_the_variable_hides_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.HIDE_VARIABLE, "1")
    assert library.native_scan_or_none() is None
    with pytest.raises(library.NativeUnavailable, match="RS4D_NO_NATIVE"):
        library.load_native_scan()


def test_a_missing_library_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(library.HIDE_VARIABLE, raising=False)
    monkeypatch.setattr(library, "SOURCE_DIR", tmp_path)
    with pytest.raises(library.NativeUnavailable, match=r"python -m rs4d_edge\.native\.build"):
        library.load_native_scan()


def test_a_damaged_library_is_reported_with_its_cause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(library.HIDE_VARIABLE, raising=False)
    monkeypatch.setattr(library, "SOURCE_DIR", tmp_path)
    (tmp_path / build.LIBRARY_NAME).write_bytes(b"not a library")
    with pytest.raises(library.NativeUnavailable, match="does not load") as caught:
        library.load_native_scan()
    assert isinstance(caught.value.__cause__, OSError)


def test_without_a_compiler_the_reason_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailable, match="no C\\+\\+ compiler found"):
        build.build_kernel(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    try:
        compiler = build.find_compiler()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    source = tmp_path / "broken.cpp"
    source.write_text("int main( {")
    with pytest.raises(RuntimeUnavailable, match=r"broken\.cpp"):
        build.compile_library(compiler, [source], tmp_path / "out" / "x.so", ["-fPIC"])
    assert list((tmp_path / "out").iterdir()) == []
