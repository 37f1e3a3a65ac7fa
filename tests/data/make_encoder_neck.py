"""Makes encoder_neck.npz: a small published-style encoder and neck computed the long way, in float64.

Run from the repository's root: `python tests/data/make_encoder_neck.py`. It uses none of rs4d_edge: the mixer runs on
the tokens and again on the flipped tokens, one token at a time, as the paper describes it, and the neck is written out
from the keys. Weights are drawn with seed 20260 and rounded to half precision, in which the file stores them
(`weight/<key>`); `input` and the outputs are float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

SEED = 20260
CHANNELS, INNER, STATES, RANK, DEPTH, HIDDEN = 16, 32, 4, 1, 4, 4
GRID_HW = (4, 3)
NECK_LAYERS = (1, 3)
Weights = dict[str, Tensor]


def encoder_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, GRID_HW[0] * GRID_HW[1], CHANNELS),
        "patch_embed.projection.weight": (CHANNELS, 3, 16, 16),
    }
    for i in range(DEPTH):
        shapes |= {
            f"layers.{i}.in_proj.weight": (2 * INNER, CHANNELS),
            f"layers.{i}.conv1d.weight": (INNER, 1, 4),
            f"layers.{i}.conv1d.bias": (INNER,),
            f"layers.{i}.x_proj.weight": (RANK + 2 * STATES, INNER),
            f"layers.{i}.dt_proj.weight": (INNER, RANK),
            f"layers.{i}.dt_proj.bias": (INNER,),
            f"layers.{i}.A_log": (INNER, STATES),
            f"layers.{i}.D": (INNER,),
            f"layers.{i}.out_proj.weight": (CHANNELS, INNER),
        }
    for name in ("pre_norm", "ln1"):
        shapes |= {f"{name}.weight": (CHANNELS,), f"{name}.bias": (CHANNELS,)}
    return {f"backbone.{name}": shape for name, shape in shapes.items()}


def conv_norm(name: str, position: int, inputs: int, outputs: int, size: int) -> dict[str, tuple[int, ...]]:
    norm = f"{name}.{position + 1}"
    return {
        f"{name}.{position}.weight": (outputs, inputs, size, size),
        f"{name}.{position}.bias": (outputs,),
        **{f"{norm}.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")},
    }


def neck_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for k in range(len(NECK_LAYERS)):
        down = f"feature_aggregator.downconvs.{k}"
        shapes |= conv_norm(down, 0, CHANNELS, HIDDEN, 1) | conv_norm(down, 3, HIDDEN, HIDDEN, 3)
        shapes |= conv_norm(f"feature_aggregator.hidden_convs.{k}", 0, HIDDEN, HIDDEN, 3)
    fusion = "feature_aggregator.fusion_conv"
    shapes |= conv_norm(fusion, 0, HIDDEN, CHANNELS, 1) | conv_norm(fusion, 3, CHANNELS, CHANNELS, 3)
    shapes |= {f"{fusion}.6.weight": (CHANNELS, CHANNELS, 3, 3), f"{fusion}.6.bias": (CHANNELS,)}
    half, quarter = CHANNELS // 2, CHANNELS // 4
    for name, inputs, outputs in (("fpn1.0", CHANNELS, half), ("fpn1.3", half, quarter), ("fpn2.0", CHANNELS, half)):
        shapes[f"feature_spliter.{name}.weight"] = (inputs, outputs, 2, 2)
        shapes[f"feature_spliter.{name}.bias"] = (outputs,)
    shapes |= {"feature_spliter.fpn1.1.weight": (half,), "feature_spliter.fpn1.1.bias": (half,)}
    for level, width in enumerate((quarter, half, CHANNELS, CHANNELS)):
        for name, inputs, size in (("lateral_convs", width, 1), ("fpn_convs", CHANNELS, 3)):
            key = f"feature_spliter.{name}.{level}"
            shapes[f"{key}.conv.weight"] = (CHANNELS, inputs, size, size)
            shapes |= {f"{key}.norm_layer.{part}": (CHANNELS,) for part in ("weight", "bias")}
    return {f"neck.{name}": shape for name, shape in shapes.items()}


def draw_weights(rng: np.random.Generator) -> dict[str, NDArray[np.float16]]:
    """Weights that keep activations near one: projections by fan-in, norms near one, positive variances."""
    weights = {}
    for name, shape in (encoder_shapes() | neck_shapes()).items():
        value = rng.standard_normal(shape)
        if name.endswith(("running_var", "norm.weight", "norm_layer.weight", "ln1.weight")):
            value = 1 + 0.2 * np.abs(value)
        elif name.endswith("dt_proj.bias"):
            value = -1 + value
        elif len(shape) > 1 and not name.endswith(("A_log", "pos_embed")):
            value = (0.6 if "layers." in name else 1.4) * value / np.sqrt(np.prod(shape[1:]))
        weights[name] = value.astype(np.float16)
    return weights


def mix(x: Tensor, w: Weights, layer: str) -> Tensor:
    """Mamba-1 on (L, C) in reading order, one token after the other."""
    u, z = (x @ w[f"{layer}.in_proj.weight"].T).chunk(2, dim=-1)
    taps = w[f"{layer}.conv1d.weight"][:, 0]  # (E, 4)
    a, state, rows = -torch.exp(w[f"{layer}.A_log"]), torch.zeros(INNER, STATES, dtype=x.dtype), []
    for t in range(len(x)):
        seen = sum((taps[:, 3 - back] * u[t - back] for back in range(4) if t >= back), w[f"{layer}.conv1d.bias"])
        value = functional.silu(seen)
        dt, b, c = torch.split(w[f"{layer}.x_proj.weight"] @ value, [RANK, STATES, STATES])
        delta = functional.softplus(w[f"{layer}.dt_proj.weight"] @ dt + w[f"{layer}.dt_proj.bias"])
        state = torch.exp(delta[:, None] * a) * state + (delta * value)[:, None] * b
        rows.append((state @ c + w[f"{layer}.D"] * value) * functional.silu(z[t]))
    return torch.stack(rows) @ w[f"{layer}.out_proj.weight"].T


def layer_norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return centred * scale * w[f"{name}.weight"] + w[f"{name}.bias"]


def encode(image: Tensor, w: Weights) -> list[Tensor]:
    """Image (3, H, W) to one (h, w, C) map a layer."""
    rows, columns = GRID_HW
    patches = image.reshape(3, rows, 16, columns, 16).permute(1, 3, 0, 2, 4).reshape(rows * columns, -1)
    x = patches @ w["backbone.patch_embed.projection.weight"].flatten(1).T + w["backbone.pos_embed"][0]
    maps = []
    for i in range(DEPTH):
        normed, layer = layer_norm(x, w, "backbone.pre_norm", 1e-6), f"backbone.layers.{i}"
        x = x + (mix(normed, w, layer) + mix(normed.flip(0), w, layer).flip(0)) / 2
        maps.append(x)
    maps[-1] = layer_norm(x, w, "backbone.ln1", 1e-6)
    return [x.reshape(rows, columns, CHANNELS) for x in maps]


def conv(x: Tensor, w: Weights, name: str) -> Tensor:
    weight = w[f"{name}.weight"]
    return functional.conv2d(x, weight, w.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def conv_norm_relu(x: Tensor, w: Weights, name: str, position: int) -> Tensor:
    x, norm = conv(x, w, f"{name}.{position}"), f"{name}.{position + 1}"
    mean, var, gain, shift = (
        w[f"{norm}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return torch.relu((x - mean) / torch.sqrt(var + 1e-5) * gain + shift)


def channel_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    return layer_norm(x.permute(0, 2, 3, 1), w, name, 1e-5).permute(0, 3, 1, 2)


def pyramid(maps: list[Tensor], w: Weights) -> list[Tensor]:
    """Encoder maps to the five levels (1, C, h, w)."""
    x: Tensor | None = None
    for k, layer in enumerate(NECK_LAYERS):
        down = f"neck.feature_aggregator.downconvs.{k}"
        feature = conv_norm_relu(conv_norm_relu(maps[layer].permute(2, 0, 1)[None], w, down, 0), w, down, 3)
        h = feature if x is None else x + feature
        x = h + conv_norm_relu(h, w, f"neck.feature_aggregator.hidden_convs.{k}", 0)
    assert x is not None
    fusion, split = "neck.feature_aggregator.fusion_conv", "neck.feature_spliter"
    x = conv(conv_norm_relu(conv_norm_relu(x, w, fusion, 0), w, fusion, 3), w, f"{fusion}.6")

    def double(y: Tensor, name: str) -> Tensor:
        return functional.conv_transpose2d(y, w[f"{split}.{name}.weight"], w[f"{split}.{name}.bias"], stride=2)

    fine = functional.gelu(channel_norm(double(x, "fpn1.0"), w, f"{split}.fpn1.1"))
    levels = []
    for level, y in enumerate((double(fine, "fpn1.3"), double(x, "fpn2.0"), x, functional.max_pool2d(x, 2))):
        for name in (f"{split}.lateral_convs.{level}", f"{split}.fpn_convs.{level}"):
            y = channel_norm(conv(y, w, f"{name}.conv"), w, f"{name}.norm_layer")
        levels.append(y)
    return [*levels, levels[-1][:, :, ::2, ::2]]


def main() -> None:
    rng = np.random.default_rng(SEED)
    stored = draw_weights(rng)
    weights = {name: torch.from_numpy(value.astype(np.float64)) for name, value in stored.items()}
    image = rng.standard_normal((3, 16 * GRID_HW[0], 16 * GRID_HW[1])).astype(np.float32)
    maps = encode(torch.from_numpy(image.astype(np.float64)), weights)
    levels = pyramid(maps, weights)
    arrays: dict[str, NDArray[np.floating[Any]]] = {f"weight/{name}": value for name, value in stored.items()}
    arrays |= {f"layer_{i}": value.numpy().astype(np.float32)[None] for i, value in enumerate(maps)}
    arrays |= {f"level_{i}": value.numpy().astype(np.float32) for i, value in enumerate(levels)}
    arrays["input"] = image[None]
    np.savez_compressed(Path(__file__).with_name("encoder_neck.npz"), allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
