"""The state of an interrupted run on disk: all that the next step depends on, in one file, replaced atomically."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rs4d_edge.errors import CheckpointError

STATE_NAME = "last.state.pt"
STATE_VERSION = 1


@dataclass
class RunState:
    """`step` counts finished steps and `elapsed_s` the run's time so far.

    Random numbers need no entry: they are derived from the seed and the step.
    """

    step: int
    elapsed_s: float
    best_ap: float
    settings: dict[str, Any]
    classes: list[str]
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    average_updates: int
    optimizer: dict[str, Any]
    best: dict[str, Any] = field(default_factory=dict)  # the evaluation with the highest mask AP
    qat_ranges: dict[str, tuple[float, bool]] = field(default_factory=dict)  # of a run with rounding, see `qat`
    version: int = STATE_VERSION


def save_run_state(state: RunState, folder: Path) -> Path:
    """Writes the state beside its final name, then renames it over the old one."""
    return write_content({name: getattr(state, name) for name in state.__dataclass_fields__}, folder)


def load_run_state(folder: Path) -> RunState:
    """Reads a state (nothing in it is unpickled but tensors and plain values)."""
    return RunState(**read_content(folder, STATE_VERSION))


def write_content(content: dict[str, Any], folder: Path) -> Path:
    """Writes the values of any kind of run; `content` holds tensors and plain values, with the `version` among them."""
    path = folder / STATE_NAME
    partial = folder / f".{STATE_NAME}.{os.getpid()}.partial"
    torch.save(content, partial)
    partial.replace(path)
    return path


def read_content(folder: Path, version: int | str) -> dict[str, Any]:
    """What `write_content` wrote with that version; `CheckpointError` where there is nothing, or something else."""
    path = folder / STATE_NAME
    if not path.is_file():
        raise CheckpointError(f"there is no run to resume in {folder}: {STATE_NAME} is not there")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"cannot read the run's state {path}: {error}") from error
    if not isinstance(content, dict) or content.get("version") != version:
        raise CheckpointError(f"{path} is no run state of version {version}; start the run anew")
    return content
