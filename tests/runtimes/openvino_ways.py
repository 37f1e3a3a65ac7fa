"""The two ways in which OpenVINO gets our operations, for tests."""

from __future__ import annotations

import openvino
import pytest

from rs4d_edge.native.library import HIDE_VARIABLE, native_scan_or_none
from rs4d_edge.runtimes import openvino_scan

WAYS = ("c++", "python")


def need_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show the native library to the test, or skip it."""
    monkeypatch.delenv(HIDE_VARIABLE, raising=False)
    if native_scan_or_none() is None:
        pytest.skip("the native scan is not built here")


def make_core(way: str, monkeypatch: pytest.MonkeyPatch) -> openvino.Core:
    """A core that knows our operations in this way, on two threads; skips where it cannot."""
    made = openvino.Core()
    if way == "python":
        monkeypatch.setattr(openvino_scan, "_compiled_extension_problem", lambda: "hidden by the test")
        monkeypatch.setattr(openvino_scan, "_warn_once", lambda reason: None)
    if openvino_scan.add_scan_extension(made, 2) != way:
        pytest.skip(f"the compiled extension cannot be built here: {openvino_scan._compiled_extension_problem()}")
    return made
