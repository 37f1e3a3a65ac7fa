"""A machine with a GPU, CUDA and TensorRT, made of stand-ins."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from rs4d_edge.runtimes.table import RUNTIMES
from tests.runtimes.tensorrt_stand_in import Machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """In the place of what is installed here."""
    yield Machine(monkeypatch)
    sys.modules.pop(RUNTIMES["tensorrt"].module, None)  # it holds the stand-ins
