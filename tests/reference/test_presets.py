"""Presets: the paper's sizes, and names that lead somewhere."""

from __future__ import annotations

import pytest
import torch

from rs4d_edge.errors import InputError
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.reference.neck import build_neck
from rs4d_edge.reference.presets import PRESETS, preset

# Parameters of the published encoders in millions.
PUBLISHED_MILLIONS = {"small": 8.25, "base": 11.75, "large": 16.57, "huge": 18.76}


@pytest.mark.parametrize(("size", "millions"), PUBLISHED_MILLIONS.items())
def test_paper_encoders_have_the_published_size(size: str, millions: float) -> None:
    for head in ("bbox", "prompt"):
        with torch.device("meta"):
            encoder = RSMamba(preset(f"rs4d-{size}-{head}").encoder)
        assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_every_name_is_its_configuration_s_own_and_has_a_neck() -> None:
    assert len(PRESETS) == 12
    for name, config in PRESETS.items():
        assert config.name == name
        assert name.endswith(config.head.value)
        with torch.device("meta"):
            assert sum(p.numel() for p in build_neck(config).parameters()) > 0


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean rs4d-edge-nano-bbox"):
        preset("rs4d-edge-nano-bbx")
    with pytest.raises(InputError, match=r"no model 'yolo'; Known: rs4d-edge-nano-bbox"):
        preset("yolo")
