"""From the features of a region of interest to the prompt embeddings that SAM's mask decoder reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PromptEmbedder(nn.Sequential):
    """RSPrompter's `point_emb`: 3x3 stride-2 convolution, three linear layers, `tokens` embeddings of `channels`.

    With `sincos` the last layer is twice as wide and an embedding is sin(even entries) + odd entries.
    Source: Chen et al., "RSPrompter", IEEE TGRS 62, 2024. The positions in the sequence are the published keys.
    """

    def __init__(self, in_channels: int, channels: int, roi_size: int, tokens: int, *, sincos: bool) -> None:
        side = (roi_size + 1) // 2
        super().__init__(
            nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(in_channels * side * side, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels * tokens * (2 if sincos else 1)),
        )
        self.tokens = tokens
        self.sincos = sincos

    def forward(self, roi_features: Tensor) -> Tensor:
        """(R, in_channels, s, s) -> (R, tokens, channels)."""
        return self.embed(self.hidden(roi_features))

    def hidden(self, roi_features: Tensor) -> Tensor:
        """(R, in_channels, s, s) -> (R, channels), what the last layer reads; not negative."""
        values = roi_features
        for layer in list(self)[:-1]:
            values = layer(values)
        return values

    def embed(self, hidden: Tensor) -> Tensor:
        """What `hidden` gives -> (R, tokens, channels)."""
        embeddings: Tensor = self[-1](hidden)
        embeddings = embeddings.reshape(embeddings.shape[0], self.tokens, -1)
        if not self.sincos:
            return embeddings
        return torch.sin(embeddings[..., ::2]) + embeddings[..., 1::2]
