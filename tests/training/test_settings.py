from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rs4d_edge.errors import InputError
from rs4d_edge.training.optimizer import learning_rate
from rs4d_edge.training.settings import TrainSettings, parse_sizes


@pytest.mark.parametrize("ends", [{}, {"epochs": 2, "max_minutes": 3.0}])
def test_one_thing_ends_a_run(ends: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of epochs and max_minutes"):
        TrainSettings(**ends)


def test_sizes_follow_their_shares_whatever_these_add_up_to() -> None:
    settings = TrainSettings(epochs=1, sizes=parse_sizes("384:1,512:2,640:1"))
    assert [settings.size_at(progress) for progress in (0.0, 0.24, 0.26, 0.74, 0.76, 1.0)] == [
        384,
        384,
        512,
        512,
        640,
        640,
    ]


@pytest.mark.parametrize("text", ["", "500", "384:0", "384:x", "384,,512", "0:1", "384:-1", "384:nan"])
def test_sizes_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="SIZE:SHARE"):
        parse_sizes(text)


def test_the_end_of_a_run_is_calm() -> None:
    settings = TrainSettings(epochs=1, calm_share=0.2)
    assert settings.augment_at(0.79) == settings.augment
    calm = settings.augment_at(0.81)
    assert (calm.mosaic, calm.free_turn, calm.copy_paste) == (0, 0, 0)
    assert calm.scale_range == settings.augment.scale_range


def test_the_rate_warms_up_and_falls_to_its_end() -> None:
    settings = TrainSettings(epochs=1, lr=1.0, warmup_steps=4, final_lr_ratio=0.1)
    assert [learning_rate(settings, step, 0.0) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert learning_rate(settings, 50, 0.5) == pytest.approx(0.55)
    assert learning_rate(settings, 99, 1.0) == learning_rate(settings, 99, 1.7) == pytest.approx(0.1)


def test_settings_survive_json() -> None:
    settings = TrainSettings(max_minutes=2.5, sizes=parse_sizes("64:0.25,96"))
    assert TrainSettings.model_validate_json(settings.model_dump_json()) == settings


def test_sizes_vary_around_their_stage_by_seed_and_step() -> None:
    settings = TrainSettings(epochs=1, sizes=parse_sizes("256"), multi_scale=0.25, seed=3)
    drawn = [settings.size_of_step(step, 0.5) for step in range(200)]
    assert set(drawn) == {192, 224, 256, 288, 320}
    assert drawn == [settings.size_of_step(step, 0.5) for step in range(200)]
    assert settings.largest_size == 320
    assert drawn != [settings.model_copy(update={"seed": 4}).size_of_step(step, 0.5) for step in range(200)]
    still = TrainSettings(epochs=1, sizes=parse_sizes("256"))
    assert {still.size_of_step(step, 0.5) for step in range(9)} == {256} == {still.largest_size}


def test_frozen_layers_are_counted_from_none() -> None:
    with pytest.raises(ValidationError, match="frozen_layers -1"):
        TrainSettings(epochs=1, frozen_layers=-1)
