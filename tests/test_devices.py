"""The devices' presets: complete, consistent, and not to be changed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rs4d_edge.devices import PRESETS, DevicePreset
from tests.test_device_imports import run_blocked

every_preset = pytest.mark.parametrize("device", PRESETS.values(), ids=PRESETS)


def test_a_preset_cannot_be_changed() -> None:
    device = PRESETS["jetson-orin-nano"]
    assert device.compute_capability == "8.7"
    with pytest.raises(ValidationError):
        setattr(device, "precision", "int8")  # noqa: B010 (a type checker refuses the plain form)


@every_preset
def test_the_architecture_is_the_compute_capability_s(device: DevicePreset) -> None:
    assert device.architecture == f"sm_{device.compute_capability.replace('.', '')}"


@every_preset
def test_modules_stand_from_small_to_large_and_name_no_mode_twice(device: DevicePreset) -> None:
    memory = [module.memory_gb for module in device.modules]
    assert memory == sorted(set(memory))
    for module in device.modules:
        for modes in (module.power_modes, module.super_power_modes):
            assert len(set(modes)) == len(modes)
        assert module.power_modes
        if module.super_bandwidth_gb_s is not None:
            assert module.super_bandwidth_gb_s > module.bandwidth_gb_s


@every_preset
def test_a_size_is_one_that_the_encoder_takes(device: DevicePreset) -> None:
    assert device.image_size_hw is None or all(side % 16 == 0 for side in device.image_size_hw)


@every_preset
def test_the_choices_are_those_of_the_export(device: DevicePreset) -> None:
    from rs4d_edge.export.recipes import Precision

    assert device.precision in {precision.value for precision in Precision}


@every_preset
def test_every_preset_names_nvidia_s_documents(device: DevicePreset) -> None:
    assert any(source.startswith("https://docs.nvidia.com/") for source in device.sources)
    assert any("ata" in source and "heet" in source.replace("-", " ") for source in device.sources)


def test_presets_import_on_a_device() -> None:
    result = run_blocked("from rs4d_edge.devices import PRESETS; print(PRESETS['jetson-thor'].architecture)")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["sm_110"]
