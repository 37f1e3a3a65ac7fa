"""The yardsticks of the encoder benchmark compute what they are said to compute."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from benchmarks import sam_encoder
from benchmarks.encoders import EncoderView, PublishedEncoder, base_encoder, sample_image
from benchmarks.sam_encoder import SamEncoderView


@torch.inference_mode()
def test_the_published_encoder_gives_what_ours_gives() -> None:
    encoder, inputs = base_encoder(64, depth=2), sample_image(64)
    ours, published = EncoderView(encoder)(*inputs)[0], PublishedEncoder(encoder)(*inputs)[0]
    assert ours.shape == (1, 4, 4, 256)
    torch.testing.assert_close(published, ours, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_sam_one_head_at_a_time_is_sam(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = sample_image(64)
    at_once = SamEncoderView(64, layers=3)  # the third layer's attention is global
    monkeypatch.setattr(sam_encoder, "ALL_HEADS_BYTES", 0)
    by_heads = SamEncoderView(64, layers=3)
    assert (at_once.by_heads, by_heads.by_heads) == (False, True)
    expected = at_once(*inputs)[0]
    assert expected.shape == (1, 256, 4, 4)
    torch.testing.assert_close(by_heads(*inputs)[0], expected, atol=1e-5, rtol=1e-4)
