"""One of our own encoders as the teacher: of a shipped model, of our checkpoints, of a published `.pth`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rs4d_edge.errors import CheckpointError, InputError
from rs4d_edge.reference.checkpoints import load_into, load_state
from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.reference.published import infer_config
from rs4d_edge.reference.shipped import shipped_names, shipped_path
from rs4d_edge.training.teachers import Preprocessing, normalised_channels, weights_fingerprint


class EncoderTeacher:
    """An `RSMamba` whose last map, after `ln1`, is the embedding."""

    def __init__(self, encoder: RSMamba, name: str) -> None:
        height, width = encoder.config.image_size_hw
        if height != width:
            raise InputError(
                f"the encoder of {name} takes {height}x{width} pixels: a teacher's input must be square, so that its "
                "grid and the student's cover a picture alike"
            )
        self._encoder = encoder.eval().requires_grad_(False)
        self.name = name
        self.preprocessing = Preprocessing(side=height)
        self.grid_hw = encoder.config.grid_hw
        self.channels = self.layer_channels = encoder.config.channels
        self.depth = encoder.config.depth
        self.fingerprint = weights_fingerprint(encoder.state_dict(), encoder.config.model_dump_json())

    def move_to(self, device: torch.device) -> None:
        """Moves the weights."""
        self._encoder.to(device)

    @torch.no_grad()
    def embed(self, image: Tensor, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """See `Teacher.embed`."""
        maps = [layer.permute(0, 3, 1, 2) for layer in self._encoder(image).layers]
        return (maps[-1].float(), *(normalised_channels(maps[i]) for i in layers))


def open_encoder_teacher(source: str | Path) -> EncoderTeacher:
    """The encoder in a checkpoint of a detector or of an encoder alone, or in a shipped model of that name."""
    name, path = str(source), Path(source)
    if name in shipped_names():
        path = shipped_path(name)
    elif not path.exists() and path.suffix not in (".safetensors", ".pth", ".pt"):
        raise InputError(
            f"there is no teacher {name!r}: expected a folder with a SAM of Hugging Face's (config.json, safetensors), "
            f"a checkpoint file, or a shipped model ({', '.join(shipped_names()) or 'none in this installation'})"
        )
    state, stored = load_state(path)
    config = stored if stored is not None else infer_config(state)
    encoder = RSMamba(config.encoder if isinstance(config, DetectorConfig) else config)
    wanted = {key for key in state if not isinstance(config, DetectorConfig) or key.startswith("backbone.")}
    load_into(encoder, {key: state[key] for key in wanted}, str(path))
    if not all(torch.isfinite(value).all() for value in encoder.state_dict().values()):
        raise CheckpointError(f"{path} holds weights that are not finite: nothing can be learnt from it")
    return EncoderTeacher(encoder, path.name)
