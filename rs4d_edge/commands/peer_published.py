"""`rs4d-bench --peer published`: a bundle's model with the encoder as it was published, in eager PyTorch.

The published encoder runs transformers' `MambaMixer` on the tokens and again on the flipped tokens. All around it is
`rs4d_edge.reference`: the published neck and heads are built on mmdetection, which is not needed here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rs4d_edge.bundle import sha256_of
from rs4d_edge.contract import ModelContract
from rs4d_edge.errors import InputError
from rs4d_edge.export.graph import fit_model
from rs4d_edge.manifest import Manifest
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.config import EncoderConfig, PathType
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.loading import load
from rs4d_edge.reference.mixer import Mixer
from rs4d_edge.reference.presets import PRESETS
from rs4d_edge.reference.shipped import shipped_names, shipped_path
from rs4d_edge.runtimes.torch_runtime import TorchRuntime

ABOUT = (
    "The same architecture with the encoder as it was published: transformers' MambaMixer on the tokens and again on "
    "the flipped tokens, in eager PyTorch. Neck, heads and masks are those of this library's reference in PyTorch."
)
OWN, RANDOM = "the bundle's own", "random, so that the number of objects, and the time of masks, means nothing"


class PublishedMixer(nn.Module):
    """A layer's mixer as published, with the weights of `own`: tokens (B, L, C) to (B, L, C), the same numbers."""

    def __init__(self, own: Mixer, config: EncoderConfig) -> None:
        super().__init__()
        from transformers import MambaConfig
        from transformers.models.mamba.modeling_mamba import MambaMixer
        from transformers.utils import logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it warns of the slow path, which is meant
        settings = MambaConfig(
            hidden_size=config.channels,
            state_size=config.state_size,
            conv_kernel=config.conv_width,
            time_step_rank=config.dt_rank,
            num_hidden_layers=config.depth,
        )
        settings.intermediate_size = config.inner_channels
        self.path = config.path
        self.mixer = MambaMixer(settings, layer_idx=0)
        self.mixer.load_state_dict(own.state_dict())

    def forward(self, tokens: Tensor, gate_layer: nn.Module | None = None) -> Tensor:
        """As `Mixer.forward`."""
        ahead: Tensor = self.mixer(tokens)
        if self.path is PathType.FORWARD:
            return ahead
        back: Tensor = self.mixer(tokens.flip(1)).flip(1)
        if gate_layer is None:
            return (ahead + back) / 2
        weights = gate_layer(torch.cat([ahead.mean(1), back.mean(1)], dim=-1))[:, None, None, :]
        gated: Tensor = ahead * weights[..., 0] + back * weights[..., 1]
        return gated


class Source(NamedTuple):
    """A model as it is here, and where its weights are from."""

    model: RS4D
    weights: str


def find_model(manifest: Manifest, checkpoint: Path | None) -> Source:
    """A bundle's model at its input size: from `checkpoint`, else with shipped weights if it has those, else random.

    `InputError` for a model that is no preset, `CheckpointError` for a file that is no detector's.
    """
    contract = manifest.contract
    if checkpoint is not None:
        return Source(fit_model(load(checkpoint), contract.image_size_hw), checkpoint.name)
    name = manifest.name
    if name in shipped_names() and sha256_of(shipped_path(name)) == manifest.weights.sha256:
        return Source(fit_model(load(name), contract.image_size_hw), OWN)
    if name not in PRESETS:
        raise InputError(
            f"--peer published does not know the architecture of {name!r}: name its checkpoint, --peer published=FILE"
        )
    return Source(fit_model(_random_model(name, contract), contract.image_size_hw), RANDOM)


def _random_model(name: str, contract: ModelContract) -> RS4D:
    fields = ("classes", "score_threshold", "nms_iou", "max_detections")
    torch.manual_seed(0)
    return RS4D(PRESETS[name].model_copy(update={field: getattr(contract, field) for field in fields}))


def publish(model: RS4D) -> RS4D:
    """Puts the published mixers in place of ours."""
    config = model.config.encoder
    layers = [each for each in model.backbone.layers if isinstance(each, Mixer)]
    model.backbone.layers = nn.ModuleList(PublishedMixer(each, config) for each in layers)
    return model.eval()


def open_path(manifest: Manifest, checkpoint: Path | None, threads: int | None) -> Predictor:
    """Frames through the published encoder, to detections and masks."""
    model = publish(find_model(manifest, checkpoint).model)
    return Predictor.over(TorchRuntime(model, threads=threads), model.contract)


def describe(manifest: Manifest, checkpoint: Path | None) -> dict[str, Any]:
    """What is measured; raises what `find_model` does."""
    model, weights = find_model(manifest, checkpoint)
    return {
        "model": model.config.name,
        "runtime": "torch",
        "precision": "fp32",
        "input_hw": list(model.config.encoder.image_size_hw),
        "weights": weights,
        "about": ABOUT,
    }
