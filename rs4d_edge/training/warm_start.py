"""Begin a training run from another model's weights: every value whose name and shape fit, the rest as it was drawn.

So a head can be changed, or classes replaced, without training the encoder anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from rs4d_edge.errors import CheckpointError
from rs4d_edge.reference.checkpoints import load_state
from rs4d_edge.reference.config import EncoderConfig
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.encoder import resize_position_embedding
from rs4d_edge.reference.shipped import shipped_names, shipped_path

_POSITIONS = "backbone.pos_embed"


class WarmStart(NamedTuple):
    """Names of the model's values that were taken from the file, and of those that were not in it with this shape."""

    taken: tuple[str, ...]
    new: tuple[str, ...]


def weights_path(source: str | Path) -> Path:
    """The file that a user means: a shipped model's name, or a path."""
    return shipped_path(str(source)) if str(source) in shipped_names() else Path(source)


@torch.no_grad()
def warm_start(model: RS4D, source: str | Path) -> WarmStart:
    """Copy into `model` what fits of `source`: a checkpoint of a detector or an encoder, or a shipped model's name.

    A position embedding stored for another input size is resized, as the encoder does at run time. Raises
    CheckpointError for a file that cannot be read or of which nothing fits.
    """
    path = weights_path(source)
    stored, config = load_state(path)
    if isinstance(config, EncoderConfig):
        stored = {f"backbone.{key}": value for key, value in stored.items()}
    own = model.state_dict()
    encoder = config if isinstance(config, EncoderConfig | None) else config.encoder
    if encoder is not None and encoder.channels == model.config.encoder.channels and _POSITIONS in stored:
        grids = (encoder.grid_hw, model.config.encoder.grid_hw)
        stored[_POSITIONS] = resize_position_embedding(stored[_POSITIONS], *grids)
    fitting = {key: value for key, value in stored.items() if key in own and own[key].shape == value.shape}
    taken = tuple(key for key in own if key in fitting)
    if not any(own[key].is_floating_point() for key in taken):
        raise CheckpointError(
            f"{path} has no weight that fits {model.config.name}: its {len(stored)} values differ in name or shape; "
            "start from a checkpoint of the same family"
        )
    model.load_state_dict(fitting, strict=False)
    return WarmStart(taken, tuple(key for key in own if key not in fitting))
