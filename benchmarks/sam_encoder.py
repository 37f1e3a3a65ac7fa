"""SAM ViT-B's image encoder, the teacher that RS4D's base encoder replaces, made to be exported at any size.

Source: Kirillov et al., "Segment Anything" (arXiv 2304.02643), by the code of transformers, with random weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.sam.modeling_sam import SamVisionAttention

from rs4d_edge.commands.peer_sam import random_sam_encoder

ALL_HEADS_BYTES = 4 << 30  # of one attention matrix of all heads, in fp32; engines hold about three such at a time
_PATCH = 16


class SamEncoderView(nn.Module):
    """Image (1, 3, H, W), normalised, to features (1, 256, H/16, W/16). `valid_hw` is not read."""

    def __init__(self, image_size: int, layers: int) -> None:
        super().__init__()
        encoder = random_sam_encoder(image_size, layers, "eager")
        tokens = (image_size // _PATCH) ** 2
        self.by_heads = encoder.config.num_attention_heads * tokens**2 * 4 > ALL_HEADS_BYTES
        if self.by_heads:
            for layer in encoder.layers:
                if isinstance(layer.attn, SamVisionAttention) and layer.window_size == 0:
                    layer.attn = AttentionByHeads(layer.attn)
        self.patch_embed, self.pos_embed = encoder.patch_embed, encoder.pos_embed
        self.layers, self.neck = encoder.layers, encoder.neck

    def forward(self, image: Tensor, valid_hw: Tensor) -> tuple[Tensor]:
        """The vision encoder's own steps, without what transformers wraps around them."""
        x = self.patch_embed(image) + self.pos_embed
        for layer in self.layers:
            x = layer(x)
        return (self.neck(x),)


class AttentionByHeads(nn.Module):
    """A global layer's attention one head at a time: the same numbers, with a twelfth of the largest matrices.

    Without it, 2048x2048 pixels take 13 GB for each attention matrix of all heads.
    """

    def __init__(self, attention: SamVisionAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        """Tokens (1, h, w, C) to (1, h, w, C)."""
        own = self.attention
        _, height, width, channels = hidden_states.shape
        tokens, heads, grid_hw = height * width, own.num_attention_heads, (height, width)
        qkv = own.qkv(hidden_states).reshape(tokens, 3, heads, channels // heads).permute(1, 2, 0, 3)
        results = []
        for head in range(heads):
            query, key, value = (qkv[part, head : head + 1] for part in range(3))  # (1, tokens, C / heads) each
            bias = own.get_decomposed_rel_pos(query, own.rel_pos_h, own.rel_pos_w, grid_hw, grid_hw)
            scores = (query * own.scale) @ key.transpose(-2, -1) + bias.reshape(1, tokens, tokens)
            results.append(scores.softmax(dim=-1) @ value)
        merged = torch.cat(results, dim=-1).reshape(1, height, width, channels)
        return own.proj(merged), None
