"""The encoders that are compared, as modules of torch and as files of each engine."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.utils import logging

from benchmarks.sam_encoder import SamEncoderView
from rs4d_edge.export.graph import save_graph, translate_module
from rs4d_edge.export.openvino_model import save_ir
from rs4d_edge.export.recipes import ScanForm
from rs4d_edge.reference.config import EncoderConfig
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.reference.presets import preset

BASE = "rs4d-base-bbox"
OUTPUT = "tokens"
logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it warns of the slow path, which is the one meant


class Files(NamedTuple):
    """One encoder on disk, for OpenVINO and, ours alone, for ONNX Runtime."""

    openvino: Path
    onnx: Path | None


class EncoderView(nn.Module):
    """Our encoder: image (1, 3, H, W), normalised, to its last map (1, H/16, W/16, C). `valid_hw` is not read."""

    def __init__(self, encoder: RSMamba) -> None:
        super().__init__()
        self.backbone = encoder

    def forward(self, image: Tensor, valid_hw: Tensor) -> tuple[Tensor]:
        """What necks read of the deepest layer."""
        return (self.backbone(image).layers[-1],)


class PublishedEncoder(nn.Module):
    """The same encoder as published: transformers' `MambaMixer` on the tokens and on the flipped tokens, averaged."""

    def __init__(self, encoder: RSMamba) -> None:
        super().__init__()
        self.own = encoder
        config = encoder.config
        settings = MambaConfig(
            hidden_size=config.channels,
            state_size=config.state_size,
            conv_kernel=config.conv_width,
            time_step_rank=config.dt_rank,
            num_hidden_layers=config.depth,
        )
        settings.intermediate_size = config.inner_channels
        self.layers = nn.ModuleList(MambaMixer(settings, layer_idx=index) for index in range(config.depth))
        self.layers.load_state_dict(encoder.layers.state_dict())

    def forward(self, image: Tensor, valid_hw: Tensor) -> tuple[Tensor]:
        """As `EncoderView`, with the same numbers."""
        own = self.own
        grid = own.patch_embed(image)
        x = grid.flatten(2).transpose(1, 2) + own.position((grid.shape[2], grid.shape[3]))
        for layer in self.layers:
            normed = own.pre_norm(x)
            x = x + (layer(normed) + layer(normed.flip(1)).flip(1)) / 2
        return (own.ln1(x).reshape(1, *grid.shape[2:], -1),)


def base_encoder(size: int, depth: int | None = None) -> RSMamba:
    """The paper's base encoder for `size` x `size` pixels, with random weights (the same at each call)."""
    fields = preset(BASE).encoder.model_dump() | {"image_size_hw": (size, size)}
    torch.manual_seed(0)
    encoder = RSMamba(EncoderConfig.model_validate(fields | ({} if depth is None else {"depth": depth})))
    return encoder.eval()


def sample_image(size: int) -> tuple[Tensor, Tensor]:
    """A normalised image (1, 3, size, size) of noise, and the size that is not read."""
    random = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, size, size, generator=random), torch.tensor([[size, size]])


def save_ours(encoder: RSMamba, size: int, folder: Path) -> Files:
    """Our encoder for both engines."""
    graph = translate_module(EncoderView(encoder).eval(), sample_image(size), [OUTPUT])
    return Files(
        save_ir(graph, folder / f"rs4d-{size}.xml", ScanForm.NATIVE), save_graph(graph, folder / f"rs4d-{size}.onnx")
    )


def save_sam(size: int, layers: int, folder: Path) -> tuple[Files, bool]:
    """SAM ViT-B's encoder for OpenVINO, and whether its global attention is taken one head at a time."""
    view = SamEncoderView(size, layers).eval()
    graph = translate_module(view, sample_image(size), [OUTPUT])
    return Files(save_ir(graph, folder / f"sam-{size}.xml", ScanForm.PLAIN), None), view.by_heads
