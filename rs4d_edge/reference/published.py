"""The configuration of a published checkpoint, read from its keys and shapes.

Published files carry weights alone. Everything that shapes the model can be told from them, but for three things: the
names of the classes, whether the mixers read in one direction or average two (the published runs do the latter), and
the attention heads of SAM's decoder (8 in every SAM).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from rs4d_edge.errors import CheckpointError
from rs4d_edge.reference.config import (
    NWPU_CLASSES,
    DetectorConfig,
    EncoderConfig,
    HeadType,
    NeckConfig,
    PathType,
    PromptConfig,
    ProposalConfig,
    RoIConfig,
)
from rs4d_edge.reference.presets import PRESETS, published_anchor_scales, published_neck_layers

_DECODER = "roi_head.mask_head.mask_decoder.mask_decoder."
_PROMPT_TOKENS = 5


class _Shapes:
    """Shapes by key, where an absent key is an error that says what the file should be."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.by_key = {key: tuple(value.shape) for key, value in state.items()}

    def __getitem__(self, key: str) -> tuple[int, ...]:
        if key not in self.by_key:
            raise CheckpointError(
                f"no key {key!r} among {len(self.by_key)} (the first: {', '.join(list(self.by_key)[:3])}): expected "
                "the weights of a published RS4D detector or encoder"
            )
        return self.by_key[key]

    def count(self, prefix: str) -> int:
        """Number of consecutive integers, from 0, that follow the prefix in some key."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        found = {int(match[1]) for match in map(pattern.match, self.by_key) if match}
        if found != set(range(len(found))):
            raise CheckpointError(
                f"keys {prefix}* are numbered {sorted(found)}: expected 0 to {len(found) - 1} without gaps"
            )
        return len(found)

    def any_with(self, prefix: str) -> bool:
        return any(key.startswith(prefix) for key in self.by_key)


def infer_config(state: Mapping[str, Tensor], classes: Sequence[str] | None = None) -> DetectorConfig | EncoderConfig:
    """Configuration of the published detector, or of the lone encoder, whose weights these are.

    `classes` names the classes in label order. Without it ten classes are NWPU VHR-10's, any other number is named
    class_0, class_1, ... (SSDD's ships and WHU's buildings cannot be told apart). Raises CheckpointError for weights
    that are not of the published architecture; our own checkpoints carry their configuration and need no inference.
    """
    shapes = _Shapes(state)
    is_detector = shapes.any_with("backbone.")
    encoder = _encoder(shapes, "backbone." if is_detector else "")
    return _detector(shapes, encoder, classes) if is_detector else encoder


def _encoder(shapes: _Shapes, prefix: str) -> EncoderConfig:
    _, tokens, channels = shapes[f"{prefix}pos_embed"]
    patch = shapes[f"{prefix}patch_embed.projection.weight"][-1]
    if shapes.any_with(f"{prefix}stem."):
        raise CheckpointError(
            "these are weights of the edge family without their configuration: expected a file of save_checkpoint"
        )
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise CheckpointError(f"{prefix}pos_embed holds {tokens} tokens: expected a square grid, as published")
    inner, states = shapes[f"{prefix}layers.0.A_log"]
    config = EncoderConfig(
        channels=channels,
        depth=shapes.count(f"{prefix}layers."),
        inner_channels=inner,
        state_size=states,
        conv_width=shapes[f"{prefix}layers.0.conv1d.weight"][-1],
        patch_size=patch,
        image_size_hw=(side * patch, side * patch),
        path=PathType.FORWARD_REVERSE_GATE
        if shapes.any_with(f"{prefix}gate_layers.")
        else PathType.FORWARD_REVERSE_MEAN,
    )
    rank = shapes[f"{prefix}layers.0.dt_proj.weight"][1]
    if rank != config.dt_rank:
        raise CheckpointError(f"{prefix}layers.0.dt_proj has rank {rank}: expected ceil(C / 16) = {config.dt_rank}")
    return config


def _detector(shapes: _Shapes, encoder: EncoderConfig, classes: Sequence[str] | None) -> DetectorConfig:
    head = HeadType.PROMPT if shapes.any_with("roi_head.mask_head.point_emb.") else HeadType.BBOX
    neck = _neck(shapes, head, encoder.depth)
    return DetectorConfig(
        name=_name(encoder, head),
        head=head,
        classes=_class_names(shapes["roi_head.bbox_head.fc_cls.weight"][0] - 1, classes),
        encoder=encoder,
        neck=neck,
        proposals=_proposals(shapes, head),
        roi=_roi(shapes, head, neck.channels),
        prompt=_prompt(shapes, encoder.channels) if head is HeadType.PROMPT else None,
    )


def _name(encoder: EncoderConfig, head: HeadType) -> str:
    known = (name for name, preset in PRESETS.items() if preset.encoder == encoder and preset.head is head)
    return next(known, f"published-{head.value}")


def _class_names(count: int, classes: Iterable[str] | None) -> tuple[str, ...]:
    if classes is not None:
        names = tuple(classes)
        if len(names) != count:
            raise CheckpointError(
                f"the checkpoint has {count} classes, but {len(names)} were named: {', '.join(names)}"
            )
        return names
    return NWPU_CLASSES if count == len(NWPU_CLASSES) else tuple(f"class_{i}" for i in range(count))


def _neck(shapes: _Shapes, head: HeadType, depth: int) -> NeckConfig:
    count = shapes.count("neck.feature_aggregator.downconvs.")
    layers = published_neck_layers(head, depth)
    if count != len(layers):
        raise CheckpointError(
            f"the neck reads {count} encoder maps: expected {len(layers)} {layers} for the {head.value} head "
            f"on {depth} layers"
        )
    return NeckConfig(
        layers=layers,
        hidden_channels=shapes["neck.feature_aggregator.downconvs.0.0.weight"][0],
        channels=shapes["neck.feature_spliter.fpn_convs.0.conv.weight"][0],
    )


def _proposals(shapes: _Shapes, head: HeadType) -> ProposalConfig:
    scales, ratios = published_anchor_scales(head), ProposalConfig().ratios
    anchors, channels = shapes["rpn_head.rpn_cls.weight"][:2]
    if anchors != len(scales) * len(ratios):
        raise CheckpointError(
            f"rpn_head.rpn_cls scores {anchors} anchors per cell: expected {len(scales) * len(ratios)} for "
            f"the {head.value} head"
        )
    return ProposalConfig(scales=scales, channels=channels)


def _roi(shapes: _Shapes, head: HeadType, channels: int) -> RoIConfig:
    fc_channels, flattened = shapes["roi_head.bbox_head.shared_fcs.0.weight"]
    box_size = math.isqrt(flattened // channels)
    if head is HeadType.PROMPT:
        return RoIConfig(box_size=box_size, fc_channels=fc_channels)
    return RoIConfig(
        box_size=box_size,
        fc_channels=fc_channels,
        mask_convs=shapes.count("roi_head.mask_head.convs."),
        mask_channels=shapes["roi_head.mask_head.upsample.weight"][1],
    )


def _prompt(shapes: _Shapes, channels: int) -> PromptConfig:
    tokens = shapes["roi_head.mask_head.point_emb.8.weight"][0] // channels
    sincos = tokens == 2 * _PROMPT_TOKENS  # sine and cosine halves are summed afterwards
    query = shapes[f"{_DECODER}transformer.final_attn_token_to_image.q_proj.weight"][0]
    return PromptConfig(
        tokens=tokens // 2 if sincos else tokens,
        sincos=sincos,
        decoder_layers=shapes.count(f"{_DECODER}transformer.layers."),
        mlp_channels=shapes[f"{_DECODER}transformer.layers.0.mlp.lin1.weight"][0],
        attention_downsample=channels // query,
        mask_tokens=shapes[f"{_DECODER}mask_tokens.weight"][0],
        iou_head_depth=shapes.count(f"{_DECODER}iou_prediction_head.layers.") + 2,
        iou_head_channels=shapes[f"{_DECODER}iou_prediction_head.proj_in.weight"][0],
    )
