"""The prompt mask head: every region of interest becomes a prompt of SAM's mask decoder.

Source: Chen et al., "RSPrompter", IEEE TGRS 62, 2024 (anchor variant), as used by RS4D.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.errors import RS4DError
from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.prompt_embedder import PromptEmbedder
from rs4d_edge.reference.sam_decoder import UPSCALE, SamMaskDecoder

# Largest image-sized tensor (prompts x tokens x channels, fp32) of a chunk: in eager mode small enough for the caches,
# in an export large enough to keep the unrolled graph short.
CHUNK_BYTES = 1 << 24
EXPORT_CHUNK_BYTES = 1 << 27


class _DecoderHolder(nn.Module):
    """One more name level, for the published keys `mask_decoder.mask_decoder.*`."""

    def __init__(self, decoder: SamMaskDecoder) -> None:
        super().__init__()
        self.mask_decoder = decoder


class PromptMaskHead(nn.Module):
    """Prompt embedder, SAM's mask decoder and the embedding that stands for "no mask prompt".

    Outside training the prompts are decoded `prompts_per_chunk` at a time (None: chosen by size; 0: all at once),
    because each prompt has its own copy of the image's tokens from the decoder's second block on. The results do not
    depend on it. torch.export unrolls the loop.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        if config.prompt is None:
            raise RS4DError(f"config {config.name!r} has no prompt head; use head='prompt' with a PromptConfig")
        channels = config.encoder.channels
        self.mask_decoder = _DecoderHolder(SamMaskDecoder(channels, config.prompt))
        self.no_mask_embed = nn.Embedding(1, channels)
        self.point_emb = PromptEmbedder(
            config.neck.channels, channels, config.roi.mask_size, config.prompt.tokens, sincos=config.prompt.sincos
        )
        self.prompts_per_chunk: int | None = None

    def forward(
        self, roi_features: Tensor, image_embedding: Tensor, batch_index: Tensor, image_positions: Tensor
    ) -> Tensor:
        """Logits over the padded input at a quarter of the token stride.

        `roi_features` (R, C_neck, s, s), `image_embedding` (B, C, h, w) the encoder's last output, `batch_index` (R,)
        int64 the image of each RoI, `image_positions` (1, h w, C) from `SharedImageEmbedding`. Returns (R, 4 h, 4 w).
        """
        if roi_features.shape[0] == 0:
            height, width = image_embedding.shape[-2:]
            return image_embedding.new_zeros(0, UPSCALE * height, UPSCALE * width)
        return self.decode(self.point_emb(roi_features), image_embedding, batch_index, image_positions)

    def decode(self, prompts: Tensor, image_embedding: Tensor, batch_index: Tensor, image_positions: Tensor) -> Tensor:
        """The same from prompt embeddings (R, tokens, C), R > 0."""
        rois = prompts.shape[0]
        height, width = image_embedding.shape[-2:]
        image = image_embedding.flatten(2).transpose(1, 2) + self.no_mask_embed.weight  # (B, h w, C)
        chunk = rois if self.training else self._chunk_size(rois, image)
        logits = []
        for first in range(0, rois, chunk):
            rows = slice(first, min(first + chunk, rois))
            own = image if image.shape[0] == 1 else image.index_select(0, batch_index[rows])
            decoder = self.mask_decoder.mask_decoder
            logits.append(decoder(own, image_positions, prompts[rows], (height, width)).logits)
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    def _chunk_size(self, rois: int, image: Tensor) -> int:
        if self.prompts_per_chunk is not None:
            return self.prompts_per_chunk or rois
        tokens, channels = image.shape[1:]
        budget = EXPORT_CHUNK_BYTES if torch.compiler.is_exporting() else CHUNK_BYTES
        chunks = -(-rois * tokens * channels * 4 // budget)
        return -(-rois // min(chunks, rois))  # chunks of nearly one size


def prompt_mask_targets(masks: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Full masks (R, H, W), bool or 0/1, to soft targets (R, h, w) float32: the share of each cell that is covered.

    Cells of a thin object keep their share, where sampling single pixels would lose it.
    """
    return functional.adaptive_avg_pool2d(masks.to(torch.float32).unsqueeze(1), size_hw).squeeze(1)


def prompt_mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy plus dice loss of logits (R, h, w) against targets (R, h, w) in 0..1, both averaged over R.

    An object covers a small part of the whole-image mask: cross-entropy alone is won by background, and dice (Milletari
    et al., "V-Net", 2016) weighs the object by its overlap. No RoI gives 0.
    """
    if logits.shape != targets.shape:
        raise RS4DError(f"mask logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must have one shape")
    if logits.shape[0] == 0:
        return logits.sum()
    targets = targets.to(logits.dtype)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, targets)
    probabilities = logits.sigmoid().flatten(1)
    flat = targets.flatten(1)
    overlap = 2 * (probabilities * flat).sum(1) + 1.0
    total = (probabilities * probabilities).sum(1) + (flat * flat).sum(1) + 1.0
    return cross_entropy + (1 - overlap / total).mean()
