"""Begin a larger edge model from a trained smaller one: it starts by seeing what the small one sees.

Widening and deepening follow Chen et al., "Net2Net" (ICLR 2016), with one change: a new channel is drawn afresh and
read with weight 0 at first, so that it is free to become something new. The encoder's residual stream is the exception:
its LayerNorms mix all channels, so its new channels repeat old ones, whose weight is shared out unevenly among the
copies (evenly, copies would receive the same gradients and stay copies). New layers begin as the identity.

All of it is exact but for those LayerNorms, whose statistics weigh the repeated channels twice.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from rs4d_edge.errors import CheckpointError
from rs4d_edge.reference.checkpoints import load_state
from rs4d_edge.reference.config import DetectorConfig, EncoderConfig
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.training.warm_start import WarmStart, weights_path

# Values along the encoder's residual stream: written to it (first axis) or read from it (second axis).
_WRITES = re.compile(r"backbone\.(patch_embed\.projection\.|layers\.\d+\.out_proj\.|pre_norm\.|ln1\.)")
_READS = re.compile(r"backbone\.layers\.\d+\.in_proj\.|neck\.lateral(16|32)\.0\.")
_LAYER = re.compile(r"(backbone\.layers\.)(\d+)(\..*)")
_NEW_BLOCK = re.compile(r"backbone\.stem\.stride[48]\.\d+\.body\.1\.1\.(weight|bias)")
_TRANSPOSED = re.compile(r"roi_head\.mask_head\.upsample\.weight")  # (inputs, outputs, 2, 2)
_LEAST_SHARE, _MOST_SHARE = 0.25, 0.75  # of a repeated channel's weight that stays with the first copy


@torch.no_grad()
def grow(model: RS4D, source: str | Path) -> WarmStart:
    """Copy a smaller edge model of the same head into `model`: a checkpoint file, or a shipped model's name.

    A value that is narrower in `model` (another kind of mask head) stays as it was drawn. Draws from torch's generator.

    Raises:
        CheckpointError: the file cannot be read, or its model is not one that `model` can contain.
    """
    path = weights_path(source)
    stored, config = load_state(path)
    old, new = _encoder_of(path, config, model.config), model.config.encoder
    own = model.state_dict()
    shares = torch.rand(new.channels - old.channels) * (_MOST_SHARE - _LEAST_SHARE) + _LEAST_SHARE
    positions = own["backbone.pos_embed"]
    stored["backbone.pos_embed"] = stored["backbone.pos_embed"].mT[0]  # (C, tokens): written to the residual stream
    own["backbone.pos_embed"] = positions.mT[0].clone()
    taken = []
    for key, value in own.items():
        origin = _origin(key, old.depth, new.depth)
        if origin not in stored:
            if key.endswith("out_proj.weight") or _NEW_BLOCK.fullmatch(key):
                value.zero_()
            continue
        if _fill(key, value, stored[origin], _blocks(key, old, new), shares):
            taken.append(key)
    positions.copy_(own["backbone.pos_embed"].mT)
    return WarmStart(tuple(taken), tuple(key for key in own if key not in taken))


def _encoder_of(path: Path, config: DetectorConfig | EncoderConfig | None, wanted: DetectorConfig) -> EncoderConfig:
    """The encoder of the smaller model, if `wanted` can contain that model."""
    if not isinstance(config, DetectorConfig):
        raise CheckpointError(f"{path} is no whole edge model of ours, which growth needs")
    old, new = config.encoder, wanted.encoder
    sizes = [(old.depth, new.depth), (old.channels, new.channels), (old.inner_channels, new.inner_channels)]
    sizes += [(config.neck.channels, wanted.neck.channels), (config.roi.fc_channels, wanted.roi.fc_channels)]
    sizes += [(old.state_size, new.state_size), *zip(old.stem_blocks, new.stem_blocks, strict=True)]
    fits = all(before <= after for before, after in sizes) and new.channels <= 2 * old.channels
    same = (config.head, config.classes, old.image_size_hw) == (wanted.head, wanted.classes, new.image_size_hw)
    if old.stem_channels is None or new.stem_channels is None or not fits or not same:
        raise CheckpointError(
            f"{config.name} in {path} cannot grow into {wanted.name}: expected two edge models of the same head, "
            "classes and input size, the first nowhere larger than the second, and the second at most twice as wide"
        )
    return old


def _origin(key: str, old_depth: int, new_depth: int) -> str:
    """The key whose value `key` begins with. Old layers lie evenly among the new; "" for a layer that is new."""
    match = _LAYER.fullmatch(key)
    if match is None:
        return key
    places = [i * new_depth // old_depth for i in range(old_depth)]
    index = int(match[2])
    return f"{match[1]}{places.index(index)}{match[3]}" if index in places else ""


def _blocks(key: str, old: EncoderConfig, new: EncoderConfig) -> list[tuple[int, int]] | None:
    """Lengths, old and new, of the parts that a value's first axis is made of; None where it is one part."""
    if key.endswith("in_proj.weight"):
        return [(old.inner_channels, new.inner_channels)] * 2
    if key.endswith("x_proj.weight"):
        return [(old.dt_rank, new.dt_rank), *[(old.state_size, new.state_size)] * 2]
    return None


def _fill(key: str, value: Tensor, stored: Tensor, blocks: list[tuple[int, int]] | None, shares: Tensor) -> bool:
    """Write `stored` into `value`, whose first axis is what it puts out and whose second is what it reads."""
    if _TRANSPOSED.fullmatch(key):
        value, stored = value.transpose(0, 1), stored.transpose(0, 1)
    if value.dim() != stored.dim() or any(
        after < before for after, before in zip(value.shape, stored.shape, strict=True)
    ):
        return False
    if value.dim() == 0:
        value.copy_(stored)
        return True
    if _READS.match(key) and value.dim() > 1:
        stored = _shared_out(stored, shares.to(stored))
    if _WRITES.match(key) or key == "backbone.pos_embed":
        stored = torch.cat([stored, stored[: value.shape[0] - stored.shape[0]]])
    begin_old = begin_new = 0
    for before, after in blocks or [(stored.shape[0], value.shape[0])]:
        rows, source = value[begin_new : begin_new + before], stored[begin_old : begin_old + before]
        if value.dim() > 1:
            rows[:, stored.shape[1] :] = 0
            rows[:, : stored.shape[1]] = source
        else:
            rows.copy_(source)
        begin_old, begin_new = begin_old + before, begin_new + after
    return True


def _shared_out(weight: Tensor, shares: Tensor) -> Tensor:
    """Columns for the repeated channels of the residual stream; a channel's columns add up to its old one."""
    repeated = len(shares)
    split = shares.reshape(1, -1, *[1] * (weight.dim() - 2))
    first = weight[:, :repeated]
    return torch.cat([first * split, weight[:, repeated:], first * (1 - split)], dim=1)
