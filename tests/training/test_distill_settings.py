from __future__ import annotations

import pytest
from pydantic import ValidationError

from rs4d_edge.errors import InputError
from rs4d_edge.training.distill_settings import CorruptionSettings, DistillSettings, parse_corruption


@pytest.mark.parametrize(
    ("text", "mode", "noise", "mask"),
    [
        ("adaptive", "adaptive", 0, 0),
        ("none", "none", 0, 0),
        ("0.1:0.3", "fixed", 0.1, 0.3),
        ("0:0.2", "fixed", 0, 0.2),
    ],
)
def test_corruption_by_its_name_or_levels(text: str, mode: str, noise: float, mask: float) -> None:
    parsed = parse_corruption(text)
    assert (parsed.mode, parsed.noise, parsed.mask) == (mode, noise, mask)


@pytest.mark.parametrize(
    "text", ["", "0.1", "a:b", "0.1:0.95", "-0.1:0", "0.1:0.2:0.3", "adaptiv", "nan:0", "adaptive:2"]
)
def test_another_corruption_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"expected adaptive, adaptive:COST .* as in 0\.1:0\.2"):
        parse_corruption(text)


def test_the_cost_and_the_patches_can_be_chosen() -> None:
    parsed = parse_corruption("adaptive:0.2", 32)
    assert (parsed.mode, parsed.target_cost, parsed.patch_px) == ("adaptive", 0.2, 32)
    with pytest.raises(InputError, match="patches of 2 px"):
        parse_corruption("none", 2)


def test_contradictions_are_refused() -> None:
    for values, message in (
        ({}, "exactly one of epochs and max_minutes"),
        ({"epochs": 1, "max_minutes": 1.0}, "exactly one of epochs and max_minutes"),
        ({"epochs": 1, "batch": 3, "accumulate": 2}, "cannot be cut into 2 equal passes"),
        ({"epochs": 1, "cached": True, "smallest_crop": 0.5}, "each crop needs an embedding of its own"),
        ({"epochs": 1, "image_size": 100}, "multiple of 16"),
        ({"epochs": 1, "nose": 0.1}, "Extra inputs"),
    ):
        with pytest.raises(ValidationError, match=message):
            DistillSettings.model_validate(values)
    with pytest.raises(ValidationError, match="belong to mode 'fixed'"):
        CorruptionSettings(mode="adaptive", noise=0.1)


def test_settings_survive_their_record() -> None:
    settings = DistillSettings(epochs=2, corruption=parse_corruption("0.1:0.2"))
    assert DistillSettings.model_validate_json(settings.model_dump_json()) == settings
    assert (settings.orientations, settings.model_copy(update={"turns": False}).orientations) == (8, 1)
