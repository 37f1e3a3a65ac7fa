"""The configuration that is inferred from published keys and shapes builds a model with exactly these."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rs4d_edge.errors import CheckpointError
from rs4d_edge.reference.checkpoints import load_state
from rs4d_edge.reference.config import NWPU_CLASSES, DetectorConfig, EncoderConfig, HeadType, PathType
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.reference.presets import preset
from rs4d_edge.reference.published import infer_config

Shapes = dict[str, tuple[int, ...]]


def shapes_of(state: dict[str, Tensor]) -> Shapes:
    return {name: tuple(value.shape) for name, value in state.items()}


def listed(path: Path) -> Shapes:
    """Keys and shapes of a list with lines like `neck.a.weight (32, 256, 1, 1) float32`."""
    found = re.findall(r"^(\S+) \(([\d, ]*)\) \w+$", path.read_text(), re.MULTILINE)
    return {key: tuple(int(side) for side in shape.split(",") if side.strip()) for key, shape in found}


def empty(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def infer_detector(shapes: Shapes, classes: tuple[str, ...] | None = None) -> DetectorConfig:
    config = infer_config(empty(shapes), classes)
    assert isinstance(config, DetectorConfig)
    return config


def meta_shapes(config: DetectorConfig) -> Shapes:
    with torch.device("meta"):
        return shapes_of(RS4D(config).state_dict())


@pytest.mark.parametrize("name", ["bbox_full", "bbox_reduced", "prompt_full", "prompt_reduced"])
def test_inferred_model_has_the_published_keys(fixtures_dir: Path, name: str) -> None:
    published = listed(fixtures_dir / f"keys_{name}.txt")
    assert len(published) > 190
    assert meta_shapes(infer_detector(published)) == published


@pytest.mark.parametrize("name", ["rs4d-base-bbox", "rs4d-base-prompt", "rs4d-huge-prompt", "rs4d-small-bbox"])
def test_a_paper_preset_is_recognised_whole(name: str) -> None:
    assert infer_detector(meta_shapes(preset(name))) == preset(name)


def test_reduced_fixtures_have_their_own_depth_and_neck_layers(fixtures_dir: Path) -> None:
    bbox = infer_detector(listed(fixtures_dir / "keys_bbox_reduced.txt"))
    prompt = infer_detector(listed(fixtures_dir / "keys_prompt_reduced.txt"))
    assert (bbox.head, bbox.encoder.depth, bbox.neck.layers) == (HeadType.BBOX, 6, (1, 3, 5))
    assert (prompt.head, prompt.encoder.depth, prompt.neck.layers) == (HeadType.PROMPT, 6, (2, 4))
    assert bbox.encoder.image_size_hw == prompt.encoder.image_size_hw == (512, 512)
    assert (bbox.proposals.scales, prompt.proposals.scales) == ((8.0,), (4.0, 8.0))
    assert prompt.prompt is not None
    assert not prompt.prompt.sincos


def test_sine_and_cosine_prompts_are_seen_in_the_width() -> None:
    shapes = meta_shapes(preset("rs4d-base-prompt"))
    for part in ("weight", "bias"):
        key = f"roi_head.mask_head.point_emb.8.{part}"
        shapes[key] = (2 * shapes[key][0], *shapes[key][1:])
    config = infer_detector(shapes)
    assert config.prompt is not None
    assert (config.prompt.tokens, config.prompt.sincos) == (5, True)
    assert meta_shapes(config) == shapes


def with_classes(count: int) -> Shapes:
    config = preset("rs4d-base-bbox").model_copy(update={"classes": tuple(str(i) for i in range(count))})
    return meta_shapes(config)


def test_classes_are_named_only_where_they_are_known() -> None:
    assert infer_detector(with_classes(10)).classes == NWPU_CLASSES
    assert infer_detector(with_classes(1)).classes == ("class_0",)
    assert infer_detector(with_classes(1), ("ship",)).classes == ("ship",)
    with pytest.raises(CheckpointError, match="3 classes, but 2 were named: a, b"):
        infer_detector(with_classes(3), ("a", "b"))


@pytest.mark.parametrize("path", [PathType.FORWARD_REVERSE_MEAN, PathType.FORWARD_REVERSE_GATE])
def test_lone_encoder_is_recognised(path: PathType) -> None:
    config = EncoderConfig(channels=64, depth=3, inner_channels=96, state_size=8, image_size_hw=(256, 256), path=path)
    assert infer_config(RSMamba(config).state_dict()) == config


def test_published_encoder_file_is_recognised(fixtures_dir: Path) -> None:
    state, _ = load_state(fixtures_dir / "encoder_small.module_prefix.pth")
    expected = EncoderConfig(channels=64, depth=4, inner_channels=128, image_size_hw=(256, 256))
    assert infer_config(state) == expected


def test_foreign_weights_are_refused_with_what_is_missing() -> None:
    with pytest.raises(CheckpointError, match=r"no key 'pos_embed' among 1 \(the first: conv1.weight\)"):
        infer_config({"conv1.weight": torch.zeros(3)})


def changed(key: str, shape: tuple[int, ...] | None) -> Shapes:
    shapes = meta_shapes(preset("rs4d-small-bbox"))
    if shape is None:
        return {name: value for name, value in shapes.items() if not name.startswith(key)}
    return shapes | {key: shape}


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("backbone.pos_embed", (1, 4095, 256), "square"),
        ("backbone.layers.0.dt_proj.weight", (512, 8), "rank 8"),
        ("rpn_head.rpn_cls.weight", (9, 256, 1, 1), "9 anchors"),
        ("backbone.layers.7.", None, "without gaps"),
        ("neck.feature_aggregator.downconvs.7.", None, "reads 7 encoder maps"),
    ],
)
def test_near_misses_are_refused(key: str, shape: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        infer_detector(changed(key, shape))


def test_edge_weights_without_their_configuration_are_refused() -> None:
    with pytest.raises(CheckpointError, match="edge family"):
        infer_config(empty(meta_shapes(preset("rs4d-edge-nano-bbox"))))
