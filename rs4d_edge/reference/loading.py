"""`load`: a reference model with trained weights, from a shipped name, our own checkpoint or a published one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rs4d_edge.errors import CheckpointError, InputError
from rs4d_edge.reference.checkpoints import load_into, load_state
from rs4d_edge.reference.config import DetectorConfig, EncoderConfig
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.presets import PRESETS
from rs4d_edge.reference.published import infer_config
from rs4d_edge.reference.shipped import shipped_names, shipped_path


def load(source: str | os.PathLike[str], *, classes: Sequence[str] | None = None) -> RS4D:
    """Build the detector that `source` holds the weights of, on the CPU, in evaluation mode.

    `source` is the name of a shipped model, a safetensors file of ours, or a published `.pth`, whose architecture is
    read from its keys and shapes. `classes` names the classes in label order, for files that do not carry them.

    Raises InputError for a name without weights (a preset describes an architecture, and random weights detect nothing)
    and CheckpointError for a file that cannot be read, does not fit, or holds an encoder alone.
    """
    path = _weights_of(source)
    state, stored = load_state(path)
    config = _renamed(stored, classes, path) if stored is not None else infer_config(state, classes)
    if isinstance(config, EncoderConfig):
        raise CheckpointError(
            f"{path} holds an encoder alone: expected a whole detector. Start training from it instead"
        )
    model = RS4D(config)
    load_into(model, state, str(path))
    return model.eval()


def _weights_of(source: str | os.PathLike[str]) -> Path:
    path = Path(source)
    if path.exists() or len(path.parts) > 1 or path.suffix in (".safetensors", ".pth", ".pt"):
        return path  # load_state says what is wrong with it, if anything is
    name = str(source)
    if name in PRESETS and name not in shipped_names():
        raise InputError(
            f"{name!r} is a preset without trained weights: expected a checkpoint file or a shipped name "
            f"({', '.join(shipped_names()) or 'none in this installation'}). Train it first (rs4d-train)"
        )
    return shipped_path(name)


def _renamed(
    config: DetectorConfig | EncoderConfig, classes: Sequence[str] | None, path: Path
) -> DetectorConfig | EncoderConfig:
    if classes is None or isinstance(config, EncoderConfig):
        return config
    if len(classes) != len(config.classes):
        raise CheckpointError(
            f"{path} has {len(config.classes)} classes ({', '.join(config.classes)}), but {len(classes)} were named: "
            f"{', '.join(classes)}"
        )
    return config.model_copy(update={"classes": tuple(classes)})
