"""SAM's mask decoder and its positional encoding of the image.

Source: Kirillov et al., "Segment Anything", 2023; parameter names as in Hugging Face's `SamMaskDecoder` and
`SamPositionalEmbedding`. Deviations, all exact: image and positions come as tokens (channels last), a 2x2 transposed
convolution of stride 2 is written as the matrix product that it is, and only mask 0 of the four is made (SAM's single
mask), because a prompt of RS4D is never ambiguous.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.errors import RS4DError
from rs4d_edge.reference.config import PromptConfig
from rs4d_edge.reference.sam_attention import SamTwoWayTransformer

UPSCALE_NORM_EPS = 1e-6
UPSCALE = 4  # mask pixels along one side of an image token


class MaskPrediction(NamedTuple):
    """`logits` (P, 4 h, 4 w) of the single mask, `iou` (P,) that the decoder expects of it."""

    logits: Tensor
    iou: Tensor


class SamFeedForward(nn.Module):
    """Perceptron of `depth` linear layers with ReLU between them."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, depth: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(in_channels, hidden_channels)
        self.proj_out = nn.Linear(hidden_channels, out_channels)
        self.layers = nn.ModuleList(nn.Linear(hidden_channels, hidden_channels) for _ in range(depth - 2))

    def forward(self, values: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        values = functional.relu(self.proj_in(values))
        for layer in self.layers:
            values = functional.relu(layer(values))
        out: Tensor = self.proj_out(values)
        return out


class SamMaskDecoder(nn.Module):
    """Masks over the whole image from the image's tokens and a few prompt embeddings each.

    `channels` is the width of the image embedding and of the prompts (256 in SAM).
    """

    def __init__(self, channels: int, config: PromptConfig) -> None:
        super().__init__()
        if channels % 8:
            raise RS4DError(f"SAM's mask decoder needs channels that are a multiple of 8, got {channels}")
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(config.mask_tokens, channels)
        self.transformer = SamTwoWayTransformer(
            channels, config.decoder_layers, config.decoder_heads, config.mlp_channels, config.attention_downsample
        )
        self.upscale_conv1 = nn.ConvTranspose2d(channels, channels // 4, kernel_size=2, stride=2)
        self.upscale_conv2 = nn.ConvTranspose2d(channels // 4, channels // 8, kernel_size=2, stride=2)
        self.upscale_layer_norm = nn.LayerNorm(channels // 4, eps=UPSCALE_NORM_EPS)
        self.output_hypernetworks_mlps = nn.ModuleList(
            SamFeedForward(channels, channels, channels // 8, 3) for _ in range(config.mask_tokens)
        )
        self.iou_prediction_head = SamFeedForward(
            channels, config.iou_head_channels, config.mask_tokens, config.iou_head_depth
        )

    def forward(
        self, image: Tensor, image_positions: Tensor, prompts: Tensor, grid_hw: tuple[int, int]
    ) -> MaskPrediction:
        """Decode prompt embeddings (P, S, C) on the image's tokens (P or 1, h w, C), row-major.

        The tokens carry the dense prompt already; `image_positions` (1, h w, C); `grid_hw` = (h, w).
        """
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(prompts.shape[0], -1, -1), prompts], dim=1)
        tokens, image = self.transformer(tokens, image, image_positions, wanted=2)
        weights = self.output_hypernetworks_mlps[0](tokens[:, 1])  # (P, C / 8)
        return MaskPrediction(self._paint(image, weights, grid_hw), self.iou_prediction_head(tokens[:, 0])[:, 0])

    def _paint(self, image: Tensor, weights: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """Image tokens (P, h w, C) and mask weights (P, C / 8) -> logits (P, 4 h, 4 w).

        Sub-pixels stay behind their token, and only the finished logits are put in rows and columns.
        """
        fine = _upscale(image, self.upscale_conv1)  # (P, h w, 4, C / 4): sub-pixels of stride 2
        fine = functional.gelu(self.upscale_layer_norm(fine))
        fine = functional.gelu(_upscale(fine, self.upscale_conv2))  # (P, h w, 4, 4, C / 8)
        logits = torch.matmul(fine.flatten(1, 3), weights.unsqueeze(-1))
        height, width = grid_hw
        # (P, row, column, row of the first half, column of it, row of the second half, column of it)
        logits = logits.view(-1, height, width, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return logits.reshape(-1, UPSCALE * height, UPSCALE * width)


def _upscale(pixels: Tensor, conv: nn.ConvTranspose2d) -> Tensor:
    """A 2x2 transposed convolution of stride 2, pixel by pixel: (..., in) -> (..., 4, out), sub-pixels row-major."""
    weight = conv.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (4 out, in)
    bias = conv.bias.repeat(4) if conv.bias is not None else None
    return functional.linear(pixels, weight, bias).reshape(*pixels.shape[:-1], 4, -1)


class FourierPositions(nn.Module):
    """SAM's positional encoding: random Fourier features of the pixel centres (Tancik et al., 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % 2:
            raise RS4DError(f"the positional encoding needs an even number of channels, got {channels}")
        self.positional_embedding: Tensor
        self.register_buffer("positional_embedding", torch.randn(2, channels // 2))

    def forward(self, grid_hw: tuple[int, int]) -> Tensor:
        """-> (1, h w, C), row-major; the matrix's rows belong to x and y, in this order."""
        height, width = grid_hw
        matrix = self.positional_embedding
        x = 2 * ((torch.arange(width, dtype=matrix.dtype, device=matrix.device) + 0.5) / width) - 1
        y = 2 * ((torch.arange(height, dtype=matrix.dtype, device=matrix.device) + 0.5) / height) - 1
        phase = x[None, :, None] * matrix[0] + y[:, None, None] * matrix[1]
        phase = (2 * math.pi * phase).flatten(0, 1)
        return torch.cat([phase.sin(), phase.cos()], dim=-1).unsqueeze(0)


class SharedImageEmbedding(nn.Module):
    """Holds `FourierPositions` under the name of the published checkpoints.

    There it lies beside the heads: `shared_image_embedding.shared_image_embedding.positional_embedding`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shared_image_embedding = FourierPositions(channels)

    def forward(self, grid_hw: tuple[int, int]) -> Tensor:
        """-> (1, h w, C), row-major."""
        positions: Tensor = self.shared_image_embedding(grid_hw)
        return positions
