"""The plugins' sources as a bundle carries them: complete, buildable where they lie, whole or not there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from rs4d_edge.errors import ExportError, RuntimeUnavailable
from rs4d_edge.export import tensorrt_plugin_sources
from rs4d_edge.export.tensorrt_plugin_sources import PLUGIN_SOURCES, README_NAME, write_plugin_sources
from rs4d_edge.native.build import find_compiler
from rs4d_edge.runtimes.tensorrt_plugins import PLUGIN_NAMES
from tests.native.tensorrt_plugin_build import STAND_INS


def test_every_source_is_there_and_no_other(tmp_path: Path) -> None:
    written = write_plugin_sources(tmp_path)
    assert sorted(written) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert {path.parent for path in written} == {tmp_path / "plugin"}
    texts = {path.name: path.read_text() for path in written}
    included = {name for text in texts.values() for name in re.findall(r'^#include "(.+)"', text, re.MULTILINE)}
    built = set(re.findall(r"tensorrt_\w+\.(?:cpp|cu)\b", texts["CMakeLists.txt"]))
    assert included | built | {"CMakeLists.txt", README_NAME} == set(texts)
    assert set(PLUGIN_SOURCES) == set(texts) - {README_NAME}


def test_the_plugins_compile_where_they_lie(tmp_path: Path) -> None:
    try:
        compiler = find_compiler()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))
    write_plugin_sources(tmp_path)
    source = tmp_path / "plugin" / "tensorrt_plugin.cpp"
    command = [compiler, "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-I", str(STAND_INS)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_readme_names_what_is_built_and_loaded(tmp_path: Path) -> None:
    *_, readme = write_plugin_sources(tmp_path)
    text = readme.read_text()
    settings = set(re.findall(r"-D(\w+)=", text))
    assert settings == {"TENSORRT_INCLUDE_DIR", "CMAKE_CUDA_ARCHITECTURES"}
    lists = (tmp_path / "plugin" / "CMakeLists.txt").read_text()
    assert all(name in lists for name in settings)
    assert "add_library(rs4d_tensorrt SHARED" in lists and 'loadLibrary("build/librs4d_tensorrt.so")' in text
    for name in ("rs4d::MixerConvolution", "rs4d::MixerScan", "rs4d::MixerGate", "rs4d::NmsKeep"):
        assert name in text
    assert all(f'{{"{name}",' in (tmp_path / "plugin" / "tensorrt_operators.hpp").read_text() for name in PLUGIN_NAMES)


def test_a_second_copy_is_refused(tmp_path: Path) -> None:
    written = write_plugin_sources(tmp_path)
    written[0].write_text("mine")
    with pytest.raises(ExportError, match=r"would overwrite .*plugin: remove it"):
        write_plugin_sources(tmp_path)
    assert written[0].read_text() == "mine"


def test_nothing_is_left_where_a_source_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_plugin_sources, "PLUGIN_SOURCES", (*PLUGIN_SOURCES, "lost.cu"))
    with pytest.raises(ExportError, match=r"lacks lost\.cu; install rs4d-edge again"):
        write_plugin_sources(tmp_path)
    assert list(tmp_path.iterdir()) == []
