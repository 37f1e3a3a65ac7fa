"""The prompt embedder: its published shape, and what `sincos` makes of the last layer."""

from __future__ import annotations

import pytest
import torch

from rs4d_edge.reference.prompt_embedder import PromptEmbedder


@pytest.mark.parametrize("sincos", [False, True])
def test_shapes_and_gradients(sincos: bool) -> None:
    embedder = PromptEmbedder(8, 16, roi_size=14, tokens=5, sincos=sincos)
    embeddings = embedder(torch.randn(3, 8, 14, 14))
    assert embeddings.shape == (3, 5, 16)
    embeddings.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in embedder.parameters())


def test_sincos_is_sine_of_even_plus_odd_entries() -> None:
    embedder = PromptEmbedder(4, 6, roi_size=14, tokens=2, sincos=True).eval()
    features = torch.randn(2, 4, 14, 14)
    plain = torch.nn.Sequential(*embedder)(features)  # (2, tokens * 2 * channels)
    want = torch.stack(
        [
            torch.stack([torch.sin(plain[:, 12 * t + 2 * c]) + plain[:, 12 * t + 2 * c + 1] for c in range(6)], dim=1)
            for t in range(2)
        ],
        dim=1,
    )
    torch.testing.assert_close(embedder(features), want)
