"""Counts against counting by hand, and against SAM's encoder as transformers builds it."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rs4d_edge.commands.info_models import SAM_ENCODERS
from rs4d_edge.reference.config import EncoderConfig
from rs4d_edge.reference.counting import count, parameters, scan_flops
from rs4d_edge.reference.presets import preset


def encoder_flops(config: EncoderConfig) -> int:
    """Published encoder by hand: shared projections once, the rest of the mixer once a direction."""
    tokens = config.grid_hw[0] * config.grid_hw[1]
    c, e, n, r = config.channels, config.inner_channels, config.state_size, config.dt_rank
    shared = c * 2 * e + e * c
    each = e * (r + 2 * n) + r * e
    conv = e * 4 * (tokens + 3)  # three more positions than tokens are computed
    matrix = 2 * (tokens * (shared + 2 * each) + 2 * conv)
    return tokens * 2 * 3 * 256 * c + config.depth * (matrix + 2 * scan_flops(1, tokens, e, n))


def test_scan_counts_seven_a_state_and_three_a_channel() -> None:
    assert scan_flops(1, 1, 1, 1) == 10
    assert scan_flops(2, 5, 3, 4) == 2 * 5 * 3 * 31


def test_encoder_counts_what_its_layers_do() -> None:
    config = preset("rs4d-base-bbox")
    cost = count(config)
    assert cost.encoder.flops == encoder_flops(config.encoder)
    assert cost.scan_flops == 24 * 2 * scan_flops(1, 4096, 512, 16)
    assert cost.encoder.parameters == 11_752_448


def test_parts_add_up() -> None:
    cost = count(preset("rs4d-edge-nano-bbox"))
    parts = (cost.encoder, cost.neck, cost.rpn, cost.heads)
    assert cost.total.flops == sum(part.flops for part in parts)
    assert cost.total.parameters == sum(part.parameters for part in parts)
    assert all(part.flops > 0 and part.parameters > 0 for part in parts)


def test_paper_claim_is_met_by_the_base_encoder() -> None:
    """8x fewer parameters (7.6x counted) and 9x fewer operations than SAM ViT-B."""
    _, millions, gflop = SAM_ENCODERS["base"]
    cost = count(preset("rs4d-base-prompt")).encoder
    assert millions * 1e6 / cost.parameters == pytest.approx(7.63, abs=0.01)
    assert gflop * 1e9 / cost.flops > 9


def test_teacher_s_figures_are_counted_by_the_same_rule() -> None:
    sam = pytest.importorskip("transformers.models.sam.modeling_sam")
    config = sam.SamVisionConfig()
    config._attn_implementation = "eager"
    with torch.device("meta"):
        encoder = sam.SamVisionEncoder(config).eval()
        image = torch.empty(1, 3, 1024, 1024)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        encoder(image)
    _, millions, gflop = SAM_ENCODERS["base"]
    assert parameters(encoder) / 1e6 == pytest.approx(millions, abs=0.05)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=0.005)
