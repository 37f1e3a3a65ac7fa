"""The encoder against the published implementation's numbers, our own long-hand ones, and what it promises on sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from rs4d_edge.errors import InputError
from rs4d_edge.reference.checkpoints import load_into, load_state
from rs4d_edge.reference.config import IMAGE_MEAN_RGB, IMAGE_STD_RGB, EncoderConfig, PathType
from rs4d_edge.reference.encoder import RSMamba
from rs4d_edge.reference.published import infer_config

OWN_NUMBERS = Path(__file__).parents[1] / "data" / "encoder_neck.npz"
PUBLISHED_TOLERANCE = 2e-4  # the published encoder itself is up to 2.4e-5 from float64
TINY = EncoderConfig(channels=16, depth=2, inner_channels=32, state_size=4, image_size_hw=(64, 48))


def largest_difference(ours: torch.Tensor, theirs: NDArray[np.float32]) -> float:
    return float((ours - torch.from_numpy(theirs)).abs().max())


@torch.no_grad()
def test_maps_are_those_computed_the_long_way() -> None:
    numbers = np.load(OWN_NUMBERS)
    encoder = RSMamba(TINY.model_copy(update={"depth": 4}))
    prefix = "weight/backbone."
    state = {name.removeprefix(prefix): torch.from_numpy(numbers[name]).float() for name in numbers if prefix in name}
    load_into(encoder, state)
    maps = encoder(torch.from_numpy(numbers["input"])).layers
    assert [largest_difference(maps[i], numbers[f"layer_{i}"]) < 2e-5 for i in range(4)] == [True] * 4
    assert float(maps[2].std()) > 0.5  # weights that let numbers fade would prove nothing


@pytest.mark.parametrize(
    ("path", "given", "expected"),
    [
        (PathType.FORWARD_REVERSE_MEAN, "input", "out_"),
        (PathType.FORWARD_REVERSE_MEAN, "input_b2", "out_b2_"),
        (PathType.FORWARD, "input", "out_forward_only_"),
    ],
)
@torch.no_grad()
def test_maps_are_the_published_ones(fixtures_dir: Path, path: PathType, given: str, expected: str) -> None:
    numbers = np.load(fixtures_dir / "encoder_small.npz")
    state, _ = load_state(fixtures_dir / "encoder_small.pth")
    config = infer_config(state)
    assert isinstance(config, EncoderConfig)
    encoder = RSMamba(config.model_copy(update={"path": path}))
    load_into(encoder, state)
    maps = encoder(torch.from_numpy(numbers[given])).layers
    differences = [largest_difference(layer, numbers[f"{expected}{i}"]) for i, layer in enumerate(maps)]
    assert len(differences) == 4
    assert max(differences) < PUBLISHED_TOLERANCE


@torch.no_grad()
def test_maps_of_a_detector_are_the_published_ones(fixtures_dir: Path) -> None:
    numbers = np.load(fixtures_dir / "detector_bbox.npz")
    state, _ = load_state(fixtures_dir / "detector_bbox.fp16.pth")
    encoder = RSMamba(EncoderConfig(depth=6, image_size_hw=(512, 512)))
    load_into(encoder, state)
    rgb = numbers["image_u8_bgr_hwc"][..., ::-1].astype(np.float32)
    image = (rgb - np.array(IMAGE_MEAN_RGB, np.float32)) / np.array(IMAGE_STD_RGB, np.float32)
    maps = encoder(torch.from_numpy(image.transpose(2, 0, 1).copy())[None]).layers
    assert max(largest_difference(maps[i], numbers[f"backbone_{i}"]) for i in (0, 2, 5)) < PUBLISHED_TOLERANCE


def test_gate_path_has_its_keys_and_runs() -> None:
    encoder = RSMamba(TINY.model_copy(update={"path": PathType.FORWARD_REVERSE_GATE}))
    gates = {name: tuple(value.shape) for name, value in encoder.state_dict().items() if "gate" in name}
    assert gates == {"gate_layers.0.0.weight": (2, 32), "gate_layers.1.0.weight": (2, 32)}
    loss = encoder(torch.randn(1, 3, 64, 48)).layers[-1].square().sum()
    loss.backward()
    gate = encoder.get_parameter("gate_layers.0.0.weight").grad
    assert gate is not None
    assert float(gate.abs().max()) > 0


def test_shuffled_paths_are_refused_with_the_reason() -> None:
    with pytest.raises(ValidationError, match="random permutation of the tokens"):
        EncoderConfig.model_validate({"path": "forward_reverse_shuffle_gate"})


@torch.no_grad()
def test_position_embedding_can_be_resized_beforehand() -> None:
    encoder = RSMamba(TINY)
    image = torch.randn(1, 3, 96, 80)
    on_the_fly = encoder(image)
    encoder.resize_position_embedding_((96, 80))
    assert encoder.config.image_size_hw == (96, 80)
    assert encoder.pos_embed.shape == (1, 30, 16)
    for before, after in zip(on_the_fly.layers, encoder(image).layers, strict=True):
        assert before.shape == (1, 6, 5, 16)
        torch.testing.assert_close(before, after)


def test_resize_to_a_size_between_patches_is_refused() -> None:
    with pytest.raises(ValidationError, match="multiples of the patch size 16"):
        RSMamba(TINY).resize_position_embedding_((100, 80))


@pytest.mark.parametrize("shape", [(1, 3, 70, 48), (3, 64, 48), (1, 4, 64, 48)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="multiples of 16"):
        RSMamba(TINY)(torch.zeros(shape))


@torch.no_grad()
def test_a_token_is_seen_from_both_sides() -> None:
    encoder = RSMamba(TINY.model_copy(update={"depth": 1}))
    image = torch.zeros(1, 3, 64, 48)
    changed = image.clone()
    changed[:, :, 16:32, 16:32] = 1  # the token in row 1, column 1
    difference = (encoder(changed).layers[0] - encoder(image).layers[0]).abs().amax(-1)[0]
    assert bool((difference > 0).all())


@torch.no_grad()
def test_export_keeps_the_encoder_as_it_is() -> None:
    encoder = RSMamba(TINY).eval()
    image = torch.randn(1, 3, 64, 48)
    program = torch.export.export(encoder, (image,))
    for ours, exported in zip(encoder(image).layers, program.module()(image).layers, strict=True):
        torch.testing.assert_close(ours, exported)
    names = [str(node.target) for node in program.graph.nodes if str(node.target).startswith("rs4d.")]
    assert names == ["rs4d.mixer_core.default"] * 2  # one node a layer
