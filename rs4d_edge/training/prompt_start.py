"""A prompt head that begins as one of SAM's box prompts, so that it learns masks in an hour and not in days.

From random weights the head must find out three things at once: where a region lies, that a token's position and a
pixel's are to be compared, and what a mask is. Published heads have the second and the third from SAM. Drawn at random,
the head of the nano still painted every object of the image after 500 steps, and mask AP was 0.03. Two beginnings help:

- **Box prompts.** SAM's prompt of a box is the positional encoding of its first and its second corner, sines and
  cosines of 2 pi (2 c - 1) M for corners c in 0..1. With `sincos` an embedding is sin(even) + odd, so that the last
  layer of the embedder can hold this encoding exactly, if four of its inputs are x1, y1, x2, y2. `box_prompt_loss`
  teaches these four, as a box head learns boxes, from the positions that the prompt variant adds to the pyramid.
- **Positions that agree.** In the attentions between tokens and image, the projections of keys begin as those of
  queries: then the product of two encodings is largest where they are those of one place, and masks begin around boxes.

The architecture is the published one, and whatever training finds better it may take.
Sources: Kirillov et al., "Segment Anything", 2023 (prompt encoder); Chen et al., "RSPrompter", IEEE TGRS 62, 2024.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from rs4d_edge.errors import InputError
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.mask_losses import BOX_VALUES
from rs4d_edge.reference.prompt_head import PromptMaskHead
from rs4d_edge.reference.sam_attention import SamAttention, SamTwoWayBlock

MASK_DECODER = "roi_head.mask_head.mask_decoder."  # names of a head that has been trained begin so
_CORNERS = BOX_VALUES // 2
# Of the queries' projections, which the keys' are equal to. With 1, the scores of a place with itself and with one that
# differs in everything should lie half a unit apart, which a softmax over ten tokens hardly shows; with 2, two units.
_SHARPNESS = 2.0
_OTHER_INPUTS = 0.1  # of what was drawn: the sines' other inputs must not drown the coordinates


@torch.no_grad()
def start_as_box_prompts(model: RS4D) -> None:
    """Set the embedder's last layer and the decoder's position-reading projections as described above, in place.

    InputError for a model that cannot hold the encoding: another head, one without `sincos`, fewer than two tokens.
    """
    head, positions = model.roi_head.mask_head, model.shared_image_embedding
    if not isinstance(head, PromptMaskHead) or positions is None:
        raise InputError(f"box_prompts is for prompt heads, and {model.config.name} has another one: leave it out")
    embedder = head.point_emb
    if not embedder.sincos or embedder.tokens < _CORNERS:
        raise InputError(
            f"box_prompts needs a prompt head with sincos and {_CORNERS} tokens or more; that of {model.config.name} "
            f"has sincos {embedder.sincos} and {embedder.tokens} tokens: leave box_prompts out"
        )
    last, before = cast(nn.Linear, embedder[-1]), cast(nn.Linear, embedder[-3])
    _encode_corners(last, embedder.tokens, positions.shared_image_embedding.positional_embedding)
    before.bias[:BOX_VALUES] = 0.5  # the middle of the image, on the ReLU's living side
    transformer = head.mask_decoder.mask_decoder.transformer
    for block in cast(Iterable[SamTwoWayBlock], transformer.layers):
        _agree(block.cross_attn_token_to_image)
        _agree(block.cross_attn_image_to_token)
    _agree(transformer.final_attn_token_to_image)


def _encode_corners(last: nn.Linear, tokens: int, matrix: Tensor) -> None:
    """Rows of the sines of the first two tokens: the phases of SAM's encoding, its second half shifted to cosines."""
    channels = 2 * matrix.shape[1]
    weight = last.weight.view(tokens, channels, 2, -1)  # views: what is written here lands in the layer
    bias = last.bias.view(tokens, channels, 2)
    frequencies = torch.cat([matrix, matrix], dim=1)  # (x and y, channels)
    weight[:_CORNERS, :, 0] *= _OTHER_INPUTS
    weight[:_CORNERS, :, 0, :BOX_VALUES] = 0.0
    for corner in range(_CORNERS):
        weight[corner, :, 0, 2 * corner : 2 * corner + 2] = 4 * math.pi * frequencies.t()
    bias[:_CORNERS, :, 0] = -2 * math.pi * frequencies.sum(0)
    bias[:_CORNERS, channels // 2 :, 0] += math.pi / 2


def _agree(attention: SamAttention) -> None:
    attention.q_proj.weight *= _SHARPNESS
    attention.k_proj.weight.copy_(attention.q_proj.weight)
    attention.k_proj.bias.copy_(attention.q_proj.bias)
