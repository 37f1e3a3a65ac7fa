"""Fixtures that all tests share: where the large files lie, and a torch that gives the same numbers each time."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TORCH_THREADS = 2

# The same examples each time: what is found by chance in CI can be found again.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")


def _outside_folder(variable: str, beside_checkout: str, what: str) -> Path:
    """The folder that an environment variable names, else the one beside the checkout; skip the test without either."""
    named = os.environ.get(variable)
    folder = Path(named) if named else REPOSITORY / beside_checkout
    if not folder.is_dir():
        pytest.skip(f"{what} are not at {folder}; set {variable} to the folder that holds them")
    return folder.resolve()


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Numbers computed by the published implementation (RS4D_FIXTURES, else ../shared/fixtures)."""
    return _outside_folder("RS4D_FIXTURES", "../shared/fixtures", "the published implementation's numbers")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The data sets' folder, holding nwpu_vhr10, ssdd and whu (RS4D_DATA, else ../shared/data)."""
    return _outside_folder("RS4D_DATA", "../shared/data", "the data sets")


@pytest.fixture(scope="session", autouse=True)
def _torch_threads() -> None:
    """Two threads, so that a test takes and gives the same on any machine. Nothing where torch is not installed."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(TORCH_THREADS)
        torch.use_deterministic_algorithms(True, warn_only=True)


@pytest.fixture(autouse=True)
def _torch_seed(_torch_threads: None) -> None:
    """Each test starts from the same torch seed, whichever tests ran before it."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.manual_seed(0)
