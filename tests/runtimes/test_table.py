"""Opening runtimes by name, and what is said when one is not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rs4d_edge.errors import InputError, RuntimeUnavailable
from rs4d_edge.runtimes.table import RUNTIMES, open_runtime, runtime_module


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'tflite'.*onnxruntime, openvino, tensorrt, torch"):
        open_runtime("tflite", "model.tflite")


@pytest.mark.parametrize("name", RUNTIMES)
def test_missing_package_names_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = RUNTIMES[name]
    monkeypatch.delitem(sys.modules, entry.module, raising=False)
    monkeypatch.setitem(sys.modules, entry.package, None)  # what import finds for a package that is not installed
    with pytest.raises(RuntimeUnavailable) as caught:
        runtime_module(name)
    assert f'pip install "rs4d-edge[{entry.extra}]"' in str(caught.value)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_broken_package_keeps_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = RUNTIMES["onnxruntime"]
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, entry.module, raising=False)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(RuntimeUnavailable, match=r"installed but does not import.*libgomp\.so\.1") as caught:
        runtime_module("onnxruntime")
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_missing_part_is_not_mistaken_for_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = RUNTIMES["onnxruntime"]
    (tmp_path / "onnxruntime.py").write_text("import a_part_that_is_missing")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, entry.module, raising=False)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    with pytest.raises(RuntimeUnavailable, match="a_part_that_is_missing"):
        runtime_module("onnxruntime")
