"""What `--target` may name, and what is taken where nothing else is said."""

from __future__ import annotations

import pytest

from rs4d_edge.devices import PRESETS
from rs4d_edge.errors import InputError
from rs4d_edge.export.recipes import Precision, Target
from rs4d_edge.export.target_choice import choose_target


@pytest.mark.parametrize("target", Target)
def test_a_target_takes_the_model_s_own_size(target: Target) -> None:
    choice = choose_target(target.value)
    assert (choice.target, choice.device, choice.image_size_hw((96, 64))) == (target, None, (96, 64))
    assert choice.precision is (Precision.FP16 if target is Target.JETSON else Precision.FP32)


@pytest.mark.parametrize("name", PRESETS)
def test_a_device_is_a_jetson_with_choices_of_its_own(name: str) -> None:
    choice = choose_target(name)
    assert choice.target is Target.JETSON and choice.device is PRESETS[name]
    assert choice.precision.value == PRESETS[name].precision
    assert choice.image_size_hw((1024, 1024)) == (PRESETS[name].image_size_hw or (1024, 1024))


@pytest.mark.parametrize(
    ("name", "meant"), [("jetson-orin-nan", "jetson-orin-nano"), ("jetson_thor", "jetson-thor"), ("tpu", "cpu")]
)
def test_an_unknown_name_says_what_was_meant_and_what_there_is(name: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"no target '{name}'; did you mean '{meant}'") as caught:
        choose_target(name)
    assert all(known in str(caught.value) for known in (*PRESETS, *(target.value for target in Target)))


def test_a_name_like_no_other_gets_no_guess() -> None:
    with pytest.raises(InputError, match=r"no target 'gpuvendor'\. Known are"):
        choose_target("gpuvendor")
