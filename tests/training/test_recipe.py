"""Recipes merge in a stated order, and a misspelt key is an error that names the nearest."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rs4d_edge.errors import InputError
from rs4d_edge.reference.presets import PRESETS, preset
from rs4d_edge.training.recipe import DATA_RECIPES, as_yaml, known_keys, merge, parse_assignments, recipe_layers
from rs4d_edge.training.settings import TrainSettings


@pytest.mark.parametrize("data", DATA_RECIPES)
@pytest.mark.parametrize("name", PRESETS)
def test_every_data_set_has_a_recipe_for_every_head_and_encoder(data: str, name: str) -> None:
    layers = recipe_layers(data, preset(name))
    assert len(layers) == 3
    settings = merge(layers)
    assert settings.epochs is not None
    largest = max(preset(name).encoder.image_size_hw)
    assert all(stage.size <= largest for stage in settings.sizes)


def test_encoder_head_data_set_and_options_go_over_each_other(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("max_minutes: 5\nlr: 0.5\naugment: {mosaic: 0.125}\n")
    layers = recipe_layers(str(own), preset("rs4d-base-prompt"))
    settings = merge(
        [*layers, {"lr": 0.25}, parse_assignments(["augment.copy_paste=1", "sizes=[{size: 64, share: 1}]"])]
    )
    assert (settings.max_minutes, settings.epochs, settings.lr) == (5, None, 0.25)
    assert (settings.layer_decay, settings.clip_norm) == (0.9, 1.0)  # of the encoder's and the head's recipes
    assert (settings.augment.scale_range, settings.augment.mosaic, settings.augment.copy_paste) == (
        (0.1, 2.0),
        0.125,
        1,
    )
    assert [stage.size for stage in settings.sizes] == [64]


def test_rounding_has_a_recipe_over_the_shipped_ones_and_under_one_s_own(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("lr: 0.5\n")
    config = preset("rs4d-edge-nano-bbox")
    shipped, mine = (merge(recipe_layers(name, config, qat=True)) for name in ("nwpu", str(own)))
    assert shipped.qat and shipped.lr < merge(recipe_layers("nwpu", config)).lr / 10
    assert shipped.augment.scale_range == (0.6, 1.5) and shipped.epochs == mine.epochs
    assert mine.qat and mine.lr == 0.5


def test_whoever_says_when_to_end_is_the_only_one() -> None:
    assert merge([{"epochs": 3}, {"max_minutes": 2}]).epochs is None
    with pytest.raises(InputError, match="exactly one of epochs and max_minutes"):
        merge([{"epochs": 3, "max_minutes": 2}])


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("layer_deccay: 0.9", "did you mean layer_decay"),
        ("mosaic: 0.9", "did you mean augment.mosaic"),
        ("augment: {mosaik: 0.9}", "did you mean augment.mosaic"),
        ("augment: 3", "must be a mapping"),
        ("- lr", "must be a mapping"),
        ("lr: [", "is not YAML"),
        ("7: 1", "has no setting '7'"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused(tmp_path: Path, text: str, guess: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=guess) as refused:
        recipe_layers(str(path), preset("rs4d-edge-nano-bbox"))
    assert str(path) in str(refused.value)


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(InputError, match="name one of nwpu, ssdd, whu, or a YAML file"):
        recipe_layers("coco", preset("rs4d-edge-nano-bbox"))


@pytest.mark.parametrize("text", ["lr", "lrr=1", "augment=1", "lr=[", "augment.lr=1"])
def test_an_assignment_with_a_mistake_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--set"):
        parse_assignments([text])


def test_a_value_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(InputError, match="lr"):
        merge([{"epochs": 1, "lr": "fast"}])


def test_printed_settings_are_a_recipe() -> None:
    settings = TrainSettings(epochs=2, lr=0.125, frozen_layers="all")
    content = yaml.safe_load(as_yaml(settings))
    assert merge([content]) == settings
    assert set(known_keys()) >= {key for key in content if key != "augment"}
