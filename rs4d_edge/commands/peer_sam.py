"""`rs4d-bench --peer sam-vit-b`: the image encoder that RS4D's replaces, in eager PyTorch.

Source: Kirillov et al., "Segment Anything" (arXiv 2304.02643), by the code of transformers, with random weights: time
does not depend on them.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import SamVisionConfig, SamVisionModel

from rs4d_edge.bench.uninterpreted import UninterpretedPath
from rs4d_edge.errors import RuntimeFailure
from rs4d_edge.frames import Frame
from rs4d_edge.reference.config import IMAGE_MEAN_RGB, IMAGE_STD_RGB

SIDE = 1024  # pixels, what SAM was trained on
LAYERS = 12


def random_sam_encoder(image_size: int, layers: int, attention: str | None = None) -> Any:
    """ViT-B's encoder with random weights, the same at each call: normalised (1, 3, H, W) to (1, 256, H/16, W/16).

    `attention` is the name of an implementation of transformers', None leaves it the choice.
    """
    torch.manual_seed(0)
    config = SamVisionConfig(
        image_size=image_size,
        num_hidden_layers=layers,
        initializer_range=0.02,  # the default of 1e-10 would make denormal numbers of everything, which are slow
    )
    if attention is not None:
        config._attn_implementation = attention
    encoder: Any = SamVisionModel(config).vision_encoder
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:  # zero at the start: an engine might leave them out
            nn.init.normal_(parameter, std=0.02)
    return encoder.eval()


class SamNetwork:
    """Follows `rs4d_edge.bench.uninterpreted.Network`. `threads` is set for each run and put back after it."""

    def __init__(self, threads: int | None, side: int = SIDE, layers: int = LAYERS) -> None:
        self.size_hw = (side, side)
        self._encoder: Any = random_sam_encoder(side, layers)
        self._threads = threads
        self._mean, self._std = (torch.tensor(each)[:, None, None] for each in (IMAGE_MEAN_RGB, IMAGE_STD_RGB))

    def prepare(self, batch: Frame) -> object:
        """Normalised float32 (1, 3, H, W)."""
        return (torch.from_numpy(batch).permute(0, 3, 1, 2).float() - self._mean) / self._std

    def infer(self, feed: object) -> None:
        """See `Network.infer`."""
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(self._threads or before)
            with torch.inference_mode():
                self._encoder(cast(Tensor, feed))
        except RuntimeError as error:  # out of memory, mostly
            raise RuntimeFailure(f"torch failed while running SAM's encoder: {error}") from error
        finally:
            torch.set_num_threads(before)

    def close(self) -> None:
        """Let go of the weights."""
        self._encoder = None


def open_path(threads: int | None) -> UninterpretedPath:
    """Frames through SAM's encoder."""
    return UninterpretedPath(SamNetwork(threads))
