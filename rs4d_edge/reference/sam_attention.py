"""The two-way transformer of SAM's mask decoder, arranged so that many prompts of one image stay cheap.

Source: Kirillov et al., "Segment Anything", 2023, appendix A; parameter names as in Hugging Face's `SamMaskDecoder`.
Symbols: P prompts, T tokens of a prompt (about ten), N image tokens (thousands), C channels, H heads, d channels of a
head. Where the published code projects the N image tokens of every prompt (twice N C^2 / 2 products an attention), the
projection is moved to the side of the T tokens: q (W x) = (q W) x. The numbers are the same up to rounding, H T < C
rows replace the projections, and neither heads nor transposes of image-sized tensors appear.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.errors import RS4DError

LAYER_NORM_EPS = 1e-6
FINAL_NORM_EPS = 1e-5


class SamAttention(nn.Module):
    """Multi-head attention between the tokens of a prompt and themselves, or the image's tokens.

    The three forms share one set of weights: `forward` (both sides small), `tokens_to_image` and `image_to_tokens`
    (one side is the image; it may have one row for all prompts, or one row per prompt).
    """

    def __init__(self, channels: int, heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = channels // downsample
        if inner * downsample != channels or inner % heads:
            raise RS4DError(
                f"SAM attention cannot split {channels} channels over downsample {downsample} and {heads} heads; "
                f"choose encoder channels that are a multiple of {downsample * heads}"
            )
        self.heads = heads
        self.scale = (inner // heads) ** -0.5
        self.q_proj = nn.Linear(channels, inner)
        self.k_proj = nn.Linear(channels, inner)
        self.v_proj = nn.Linear(channels, inner)
        self.out_proj = nn.Linear(inner, channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Plain attention: (P, T, C) queries over (P, S, C) keys and values -> (P, T, C)."""
        q, k, v = (self._split(t) for t in (self.q_proj(query), self.k_proj(key), self.v_proj(value)))
        weights = torch.softmax(torch.matmul(q * self.scale, k.transpose(2, 3)), dim=-1)  # (P, H, T, S)
        return self._join(torch.matmul(weights, v))

    def tokens_to_image(self, query: Tensor, image: Tensor, image_positions: Tensor) -> Tensor:
        """Tokens (P, T, C) read the image (P or 1, N, C), placed by its positions (1, N, C) -> (P, T, C).

        The key bias adds the same number to all scores of a query, which softmax ignores, so it is left out.
        """
        prompts, tokens, channels = query.shape
        q = self._split(self.q_proj(query)) * self.scale
        rows = torch.matmul(q, self._per_head(self.k_proj.weight)).flatten(1, 2)  # (P, HT, C)
        weights = torch.softmax(_scores(rows, image, image_positions), dim=-1)  # (P, HT, N)
        read = _from_image(weights, image).view(prompts, self.heads, tokens, channels)
        value = torch.matmul(read, self._per_head(self.v_proj.weight).transpose(1, 2))  # (P, H, T, d)
        return self._join(value + self.v_proj.bias.view(self.heads, 1, -1))

    def image_to_tokens(self, image: Tensor, image_positions: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The image (P or 1, N, C), placed by its positions, reads the tokens (P, T, C) and adds it to itself.

        Returns (P, N, C). A head's weights add up to one, so every row carries its share of the output bias.
        """
        prompts, tokens, _ = key.shape
        k = self._split(self.k_proj(key)) * self.scale
        rows = torch.matmul(k, self._per_head(self.q_proj.weight)).flatten(1, 2)  # (P, HT, C)
        bias = torch.matmul(k, self.q_proj.bias.view(self.heads, -1, 1)).flatten(1, 2)  # (P, HT, 1)
        scores = _scores(rows, image, image_positions) + bias  # (P, HT, N)
        weights = torch.softmax(scores.view(prompts, self.heads, tokens, -1), dim=2).flatten(1, 2)
        out = self._per_head(self.out_proj.weight.t())  # (H, d, C)
        mixed = torch.matmul(self._split(self.v_proj(value)), out).flatten(1, 2) + self.out_proj.bias / self.heads
        return torch.baddbmm(image.expand(prompts, -1, -1), weights.transpose(1, 2), mixed)

    def _split(self, projected: Tensor) -> Tensor:
        """(P, T, H d) -> (P, H, T, d)."""
        return projected.reshape(*projected.shape[:2], self.heads, -1).transpose(1, 2)

    def _join(self, heads: Tensor) -> Tensor:
        """What the heads read (P, H, T, d) -> (P, T, C)."""
        out: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))
        return out

    def _per_head(self, weight: Tensor) -> Tensor:
        """A projection's weight (H d, C) -> (H, d, C)."""
        return weight.reshape(self.heads, -1, weight.shape[-1])


def _scores(rows: Tensor, image: Tensor, positions: Tensor) -> Tensor:
    """(P, K, C) rows times (image (P or 1, N, C) + positions (1, N, C)) -> (P, K, N).

    With one image it is one large matrix product; else the positions' share is a product of its own, cheaper than
    an image-sized sum per prompt.
    """
    if image.shape[0] == 1:
        return torch.matmul(rows, (image + positions)[0].t())
    return torch.matmul(rows, positions[0].t()) + torch.matmul(rows, image.transpose(1, 2))


def _from_image(weights: Tensor, image: Tensor) -> Tensor:
    """(P, K, N) weights of (P or 1, N, C) image tokens -> (P, K, C)."""
    return torch.matmul(weights, image[0] if image.shape[0] == 1 else image)


class SamMLP(nn.Module):
    """The token-wise perceptron of a block: C -> `mlp_channels` -> C with ReLU."""

    def __init__(self, channels: int, mlp_channels: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, mlp_channels)
        self.lin2 = nn.Linear(mlp_channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(P, T, C) -> (P, T, C)."""
        out: Tensor = self.lin2(functional.relu(self.lin1(tokens)))
        return out


class SamTwoWayBlock(nn.Module):
    """Tokens attend to themselves, then to the image, pass the MLP, and the image attends to the tokens."""

    def __init__(self, channels: int, heads: int, mlp_channels: int, downsample: int, *, first: bool) -> None:
        super().__init__()
        self.first = first  # the first block's self-attention sees the bare tokens, which are their own position
        self.self_attn = SamAttention(channels, heads)
        self.layer_norm1 = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.cross_attn_token_to_image = SamAttention(channels, heads, downsample)
        self.layer_norm2 = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.mlp = SamMLP(channels, mlp_channels)
        self.layer_norm3 = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.layer_norm4 = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.cross_attn_image_to_token = SamAttention(channels, heads, downsample)

    def forward(
        self, tokens: Tensor, image: Tensor, token_positions: Tensor, image_positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens and their positions (P, T, C); image (P or 1, N, C), its positions (1, N, C).

        Returns the new tokens (P, T, C) and the new image tokens (P, N, C): from here on every prompt has its own.
        """
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + token_positions
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.layer_norm1(tokens)
        read = self.cross_attn_token_to_image.tokens_to_image(tokens + token_positions, image, image_positions)
        tokens = self.layer_norm2(tokens + read)
        tokens = self.layer_norm3(tokens + self.mlp(tokens))
        image = self.cross_attn_image_to_token.image_to_tokens(image, image_positions, tokens + token_positions, tokens)
        return tokens, self.layer_norm4(image)


class SamTwoWayTransformer(nn.Module):
    """The blocks and the final attention of the tokens to the image."""

    def __init__(self, channels: int, depth: int, heads: int, mlp_channels: int, downsample: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SamTwoWayBlock(channels, heads, mlp_channels, downsample, first=index == 0) for index in range(depth)
        )
        self.final_attn_token_to_image = SamAttention(channels, heads, downsample)
        self.layer_norm_final_attn = nn.LayerNorm(channels, eps=FINAL_NORM_EPS)

    def forward(self, tokens: Tensor, image: Tensor, image_positions: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
        """Tokens (P, T, C), image (P or 1, N, C), positions (1, N, C) -> tokens (P, wanted, C), image (P, N, C).

        Only the wanted tokens pass the final attention: it does not mix tokens, so the others need not be computed.
        """
        positions = tokens
        for block in self.layers:
            tokens, image = block(tokens, image, positions, image_positions)
        tokens, positions = tokens[:, :wanted], positions[:, :wanted]
        read = self.final_attn_token_to_image.tokens_to_image(tokens + positions, image, image_positions)
        return self.layer_norm_final_attn(tokens + read), image
