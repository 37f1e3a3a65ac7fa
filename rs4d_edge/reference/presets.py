"""Named configurations: the paper's encoders with both heads, and the edge family made for small devices.

The paper's models take 1024x1024 pixels. The edge family takes 640x640, keeps the encoder and its mixers, and replaces
what costs more than the encoder on a device: the 16x16 patch embedding by a convolutional stem, the stride-4 pyramid by
one from stride 8, 1000 proposals by a few hundred, and wide heads by narrow ones.
"""

from __future__ import annotations

import difflib

from rs4d_edge.errors import InputError
from rs4d_edge.reference.config import (
    DetectorConfig,
    EncoderConfig,
    HeadType,
    NeckConfig,
    NeckType,
    PromptConfig,
    ProposalConfig,
    RoIConfig,
)

# Depth and inner width of the paper's encoders; all are 256 wide with 16 states.
PAPER_ENCODERS = {"small": (16, 512), "base": (24, 512), "large": (28, 640), "huge": (32, 640)}
_FIRST_NECK_LAYER = {HeadType.BBOX: 1, HeadType.PROMPT: 2}
_ANCHOR_SCALES = {HeadType.BBOX: (8.0,), HeadType.PROMPT: (4.0, 8.0)}


def published_neck_layers(head: HeadType, depth: int) -> tuple[int, ...]:
    """Encoder maps that the published necks read: every second one, from 1 (bbox) or 2 (prompt)."""
    return tuple(range(_FIRST_NECK_LAYER[head], depth, 2))


def published_anchor_scales(head: HeadType) -> tuple[float, ...]:
    """Anchor sides in multiples of the level's stride, as published for each head."""
    return _ANCHOR_SCALES[head]


def _paper(size: str, head: HeadType) -> DetectorConfig:
    depth, inner = PAPER_ENCODERS[size]
    return DetectorConfig(
        name=f"rs4d-{size}-{head.value}",
        head=head,
        encoder=EncoderConfig(depth=depth, inner_channels=inner),
        neck=NeckConfig(layers=published_neck_layers(head, depth)),
        proposals=ProposalConfig(scales=published_anchor_scales(head)),
        prompt=PromptConfig() if head is HeadType.PROMPT else None,
    )


_EDGE_SIZE_HW = (640, 640)
_EDGE_ENCODERS = {
    "nano": EncoderConfig(
        channels=128,
        depth=4,
        inner_channels=256,
        state_size=8,
        image_size_hw=_EDGE_SIZE_HW,
        stem_channels=(16, 32, 64),
        stem_blocks=(0, 1),
    ),
    "small": EncoderConfig(
        channels=192,
        depth=8,
        inner_channels=384,
        state_size=8,
        image_size_hw=_EDGE_SIZE_HW,
        stem_channels=(24, 48, 96),
        stem_blocks=(1, 1),
    ),
}
_EDGE_WIDTHS = {"nano": 64, "small": 96}  # of neck and RPN
_EDGE_PROPOSALS = {"nano": 100, "small": 200}
_EDGE_FC = {"nano": 256, "small": 512}
_EDGE_DETAIL = 32  # width of the mask head where it reads the stem


def _edge(size: str, head: HeadType) -> DetectorConfig:
    encoder, width = _EDGE_ENCODERS[size], _EDGE_WIDTHS[size]
    # With `sincos` the head can begin as SAM's box prompts (see `prompt_start`): drawn at random, it hardly learnt.
    prompt = PromptConfig(sincos=True, mlp_channels=4 * encoder.channels, iou_head_channels=encoder.channels)
    return DetectorConfig(
        name=f"rs4d-edge-{size}-{head.value}",
        head=head,
        encoder=encoder,
        neck=NeckConfig(type=NeckType.EDGE, layers=(), channels=width),
        proposals=ProposalConfig(
            strides=(8, 16, 32, 64),
            scales=(2.5, 4.0),
            channels=width,
            pre_nms=256,
            proposals=_EDGE_PROPOSALS[size],
        ),
        roi=RoIConfig(
            strides=(8, 16, 32),
            finest_scale=56.0,
            fc_channels=_EDGE_FC[size],
            mask_convs=2,
            mask_channels=64,
            detail_channels=_EDGE_DETAIL if head is HeadType.BBOX else 0,
        ),
        prompt=prompt if head is HeadType.PROMPT else None,
    )


PRESETS: dict[str, DetectorConfig] = {
    config.name: config
    for config in (
        *(_edge(size, head) for size in _EDGE_ENCODERS for head in HeadType),
        *(_paper(size, head) for size in PAPER_ENCODERS for head in HeadType),
    )
}


def preset(name: str) -> DetectorConfig:
    """The configuration of that name; an unknown name raises InputError with the nearest known ones."""
    if name in PRESETS:
        return PRESETS[name]
    nearest = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    raise InputError(f"there is no model {name!r}; {guess}Known: {', '.join(PRESETS)}")
