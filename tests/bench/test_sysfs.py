"""Sensors in trees that look like /sys, complete, incomplete and wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rs4d_edge.bench.sources import Source
from rs4d_edge.bench.sysfs import Clocks, PowerRails, Rapl, Temperatures, Throttling

EVERY = (Temperatures, Clocks, Throttling, Rapl, PowerRails)


def put(root: Path, path: str, content: str) -> None:
    target = root / "sys" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f"{content}\n")


@pytest.mark.parametrize("kind", EVERY)
def test_a_machine_without_sensors_says_so(kind: type[Source], tmp_path: Path) -> None:
    source = kind(tmp_path)  # type: ignore[call-arg]
    assert not source.available and source.absent
    assert source.read() == {}


@pytest.mark.parametrize("content", ["", "garbage", "nan", "-", "inf", "\0\0", "12 34"])
@pytest.mark.parametrize("kind", EVERY)
def test_garbage_is_no_number(kind: type[Source], content: str, tmp_path: Path) -> None:
    for path in (
        *("class/thermal/thermal_zone0/temp", "class/hwmon/hwmon0/temp1_input", "class/hwmon/hwmon0/power1_input"),
        *("devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "class/devfreq/17000000.gpu/cur_freq"),
        *("devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "class/powercap/intel-rapl:0/energy_uj"),
        *("class/hwmon/hwmon1/curr1_input", "class/hwmon/hwmon1/in1_input"),
        "devices/platform/soc/soc:firmware/get_throttled",
    ):
        put(tmp_path, path, content)
    put(tmp_path, "class/hwmon/hwmon1/name", "ina3221")
    source = kind(tmp_path)  # type: ignore[call-arg]
    assert not source.available and source.read() == {}


def test_temperatures_by_name_without_those_that_cannot_be(tmp_path: Path) -> None:
    zones = (("cpu-thermal", "45500"), ("cpu-thermal", "46000"), ("PMIC-Die", "100000"), ("lost", "-274000"))
    for number, (kind, value) in enumerate(zones):
        put(tmp_path, f"class/thermal/thermal_zone{number}/type", kind)
        put(tmp_path, f"class/thermal/thermal_zone{number}/temp", value)
    put(tmp_path, "class/hwmon/hwmon0/name", "coretemp")
    put(tmp_path, "class/hwmon/hwmon0/temp1_input", "51000")
    put(tmp_path, "class/hwmon/hwmon0/temp1_label", "Package id 0")
    assert Temperatures(tmp_path).read() == {
        "temperature:cpu-thermal": 45.5,
        "temperature:cpu-thermal 2": 46.0,
        "temperature:coretemp Package id 0": 51.0,
    }


def test_a_sensor_that_goes_away_is_left_out(tmp_path: Path) -> None:
    put(tmp_path, "class/thermal/thermal_zone0/temp", "45500")
    source = Temperatures(tmp_path)
    (tmp_path / "sys/class/thermal/thermal_zone0/temp").unlink()
    assert source.available and source.read() == {}


def test_clocks_of_cpu_and_gpu(tmp_path: Path) -> None:
    for core, khz in ((0, 1_500_000), (1, 1_000_000), (10, 2_000_000)):
        put(tmp_path, f"devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", str(khz))
    put(tmp_path, "class/devfreq/17000000.gpu/cur_freq", "918000000")
    put(tmp_path, "class/devfreq/15340000.vic/cur_freq", "115200000")
    assert Clocks(tmp_path).read() == {
        "clock:CPU mean": 1500.0,
        "clock:CPU lowest": 1000.0,
        "clock:GPU 17000000.gpu": 918.0,
    }


def test_throttling_of_all_kinds(tmp_path: Path) -> None:
    for core, count in ((0, 3), (1, 4)):
        put(tmp_path, f"devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count", str(count))
        put(tmp_path, f"devices/system/cpu/cpu{core}/thermal_throttle/package_throttle_count", "5")
    for number, (kind, state) in enumerate((("thermal-cpufreq-0", "2"), ("pwm-fan", "3"))):
        put(tmp_path, f"class/thermal/cooling_device{number}/type", kind)
        put(tmp_path, f"class/thermal/cooling_device{number}/cur_state", state)
    put(tmp_path, "devices/platform/soc/soc:firmware/get_throttled", "50005")
    assert Throttling(tmp_path).read() == {
        "throttle_count:core": 7,
        "throttle_count:package": 5,
        "throttle_state:thermal-cpufreq-0": 2,
        "throttle_state:firmware": 5,
    }


def test_energy_counts_on_where_its_counter_begins_anew(tmp_path: Path) -> None:
    zone = "class/powercap/intel-rapl:0"
    put(tmp_path, f"{zone}/name", "package-0")
    put(tmp_path, f"{zone}/max_energy_range_uj", "10000000")
    put(tmp_path, f"{zone}/energy_uj", "9000000")
    put(tmp_path, "class/powercap/intel-rapl:0:0/name", "core")
    put(tmp_path, "class/powercap/intel-rapl:0:0/energy_uj", "5")
    put(tmp_path, "class/powercap/intel-rapl-mmio:0/name", "package-0")
    put(tmp_path, "class/powercap/intel-rapl-mmio:0/energy_uj", "9000000")
    source = Rapl(tmp_path)
    found = [source.read()]
    for value in ("9500000", "1500000"):
        put(tmp_path, f"{zone}/energy_uj", value)
        found.append(source.read())
    assert found == [{"energy:package-0": joules} for joules in (0.0, 0.5, 2.5)]


def test_counters_for_root_alone_say_so(tmp_path: Path) -> None:
    (tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj").mkdir(parents=True)  # a folder cannot be read by anyone
    source = Rapl(tmp_path)
    assert not source.available and "root" in str(source.absent)


def test_power_of_sensors_and_of_voltage_times_current(tmp_path: Path) -> None:
    put(tmp_path, "class/hwmon/hwmon2/name", "amdgpu")
    put(tmp_path, "class/hwmon/hwmon2/power1_average", "35000000")
    put(tmp_path, "class/hwmon/hwmon2/power1_input", "36000000")
    put(tmp_path, "class/hwmon/hwmon3/name", "ina3221")
    for channel, (label, millivolts, milliamperes) in enumerate((("VDD_IN", 5000, 1500), ("VDD_CPU", 5000, 200)), 1):
        put(tmp_path, f"class/hwmon/hwmon3/in{channel}_label", label)
        put(tmp_path, f"class/hwmon/hwmon3/in{channel}_input", str(millivolts))
        put(tmp_path, f"class/hwmon/hwmon3/curr{channel}_input", str(milliamperes))
    assert PowerRails(tmp_path).read() == {"power:amdgpu": 35.0, "power:VDD_IN": 7.5, "power:VDD_CPU": 1.0}
