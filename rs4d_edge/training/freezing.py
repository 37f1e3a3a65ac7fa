"""Fine-tuning with restraint: encoder layers that do not learn, and layers that learn slower the deeper they lie.

Layer-wise decay: Clark et al., "ELECTRA" (ICLR 2020), as common for pretrained vision transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from rs4d_edge.errors import InputError
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.encoder import RSMamba

FrozenPart = Literal["neck", "rpn_head", "bbox_head", "mask_head"]


def freeze(encoder: RSMamba, layers: int | Literal["all"] | None) -> list[nn.Module]:
    """Stop gradients to a part of the encoder; answers with its modules, which the caller keeps in evaluation mode.

    None freezes nothing; 0 what makes tokens of pixels (stem, patch and position embedding); n also the first n layers;
    "all" the whole encoder. The norm that all layers share learns unless all of them are frozen.
    """
    if layers is None:
        return []
    depth = len(encoder.layers)
    if layers == "all":
        frozen: list[nn.Module] = [encoder]
    elif layers <= depth:
        stem = [] if encoder.stem is None else [encoder.stem]
        frozen = [*stem, encoder.patch_embed, *encoder.layers[:layers]]
        encoder.pos_embed.requires_grad_(False)
    else:
        raise InputError(f"frozen_layers {layers}: this encoder has {depth} layers; give 0 to {depth}, or all")
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def freeze_parts(model: RS4D, parts: Sequence[FrozenPart]) -> list[nn.Module]:
    """Stop gradients to whole parts of the model beside the encoder; answers with them, as `freeze` does.

    A head is trained several times faster under parts that are ready: they are computed forwards only.
    """
    modules: dict[FrozenPart, nn.Module] = {
        "neck": model.neck,
        "rpn_head": model.rpn_head,
        "bbox_head": model.roi_head.bbox_head,
        "mask_head": model.roi_head.mask_head,
    }
    frozen = [modules[part] for part in parts]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def rate_scales(encoder: RSMamba, decay: float) -> dict[nn.Parameter, float]:
    """Shares of the learning rate: `decay` for the last layer, its square for the one before, and so on.

    The shared norm and the last one count with the last layer; stem, patch and position embedding lie below the first.
    """
    if decay == 1.0:
        return {}
    depth = len(encoder.layers)
    scales = dict.fromkeys(encoder.parameters(), decay ** (depth + 1))
    for index, layer in enumerate([*encoder.layers, *encoder.gate_layers]):
        scales |= dict.fromkeys(layer.parameters(), decay ** (depth - index % depth))
    for norm in (encoder.pre_norm, encoder.ln1):
        scales |= dict.fromkeys(norm.parameters(), decay)
    return scales
