"""The encoders that are compared, as modules of torch and as files of each engine."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.sam_encoder import SamEncoderView
from rs4d_edge.commands.peer_published import PublishedMixer
from rs4d_edge.export.graph import save_graph, translate_module
from rs4d_edge.export.openvino_model import save_ir
from rs4d_edge.export.recipes import ScanForm
from rs4d_edge.reference.config import EncoderConfig
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.reference.mixer import Mixer
from rs4d_edge.reference.presets import preset

BASE = "rs4d-base-bbox"
OUTPUT = "tokens"


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
        mixers = [each for each in encoder.layers if isinstance(each, Mixer)]
        self.layers = nn.ModuleList(PublishedMixer(each, encoder.config) for each in mixers)

    def forward(self, image: Tensor, valid_hw: Tensor) -> tuple[Tensor]:
        """As `EncoderView`, with the same numbers."""
        own = self.own
        grid = own.patch_embed(image)
        x = grid.flatten(2).transpose(1, 2) + own.position((grid.shape[2], grid.shape[3]))
        for layer in self.layers:
            x = x + layer(own.pre_norm(x))
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
