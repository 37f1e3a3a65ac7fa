from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rs4d_edge.bench.nvml import Nvml
from rs4d_edge.bench.sources import KINDS, ProcessUse, Source, labelled, missing_kinds
from rs4d_edge.bench.tegrastats import Tegrastats, parse_tegrastats

ORIN = (
    "11-28-2026 01:02:03 RAM 2448/7620MB (lfb 6x4MB) SWAP 0/3810MB (cached 0MB) CPU [12%@1510,8%@1510,off,off] "
    "GR3D_FREQ 45%@[611] cpu@48.5C soc2@47.1C tj@49.25C gpu@-256C PMIC-Die@100C "
    "VDD_IN 5040mW/4981mW VDD_SOC 1441mW/1400mW"
)
NANO = "RAM 1903/3964MB CPU [5%@102] EMC_FREQ 0% GR3D_FREQ 7% PLL@31C AO@39.5C POM_5V_IN 2157/2157 POM_5V_GPU 40/41"


def test_what_a_jetson_prints_is_read() -> None:
    assert parse_tegrastats(ORIN) == {
        "gpu:GR3D": 45.0,
        "clock:GR3D": 611.0,
        "temperature:cpu": 48.5,
        "temperature:soc2": 47.1,
        "temperature:tj": 49.25,
        "power:VDD_IN": 5.04,
        "power:VDD_SOC": 1.441,
    }
    assert parse_tegrastats(NANO) == {
        "gpu:GR3D": 7.0,
        "temperature:PLL": 31.0,
        "temperature:AO": 39.5,
        "power:POM_5V_IN": 2.157,
        "power:POM_5V_GPU": 0.04,
    }
    assert parse_tegrastats("") == parse_tegrastats("no such line") == {}


def test_the_program_s_last_line_counts_and_it_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tegrastats"
    program.write_text(f"#!/bin/sh\necho '{NANO}'\necho '{ORIN}'\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    source = Tegrastats()
    try:
        deadline = time.monotonic() + 60
        while "power:VDD_IN" not in source.read() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert source.available and source.read()["power:VDD_IN"] == 5.04
    finally:
        source.close()
    source.close()


def test_without_the_program_the_source_is_absent(tmp_path: Path) -> None:
    source = Tegrastats(str(tmp_path / "tegrastats"))
    assert not source.available and source.read() == {}


class FakeNvml(ModuleType):
    """One GPU that tells everything but its energy, and this process's memory hidden."""

    class NVMLError(Exception):
        pass

    NVML_TEMPERATURE_GPU = NVML_CLOCK_SM = 0

    def __init__(self, fails: bool = False, count: int = 1) -> None:
        super().__init__("fake_nvml")
        self.fails, self.count, self.shut = fails, count, 0

    def nvmlInit(self) -> None:
        if self.fails:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:
        self.shut += 1

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any) -> int:
        raise self.NVMLError("Not Supported")

    def __getattr__(self, name: str) -> Any:
        answers = {
            "nvmlDeviceGetCount": self.count,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetName": b"A GPU",
            "nvmlSystemGetDriverVersion": "580",
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=-1, usedGpuMemory=5)],
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=3 << 30),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=91),
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetClockInfo": 1410,
            "nvmlDeviceGetPowerUsage": 250_500,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x1 | 0x20,
        }
        if name not in answers:
            raise AttributeError(name)
        return lambda *_: answers[name]


def nvml(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[FakeNvml, Nvml]:
    fake = FakeNvml(**settings)
    monkeypatch.setitem(sys.modules, "fake_nvml", fake)
    return fake, Nvml("fake_nvml")


def test_a_gpu_tells_what_it_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, source = nvml(monkeypatch)
    assert source.gpus == ["A GPU"] and source.driver == "580"
    assert source.read() == {
        "gpu_memory:GPU0 in use": float(3 << 30),
        "gpu:GPU0": 91.0,
        "temperature:GPU0": 61.0,
        "clock:GPU0": 1410.0,
        "power:GPU0": 250.5,
        "throttle_state:GPU0": 32.0,  # idleness, bit 1, slows nothing down
    }
    source.close()
    assert fake.shut == 1


def test_without_driver_gpu_or_package_nvml_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nvml(monkeypatch, fails=True)[1].absent == "Driver Not Loaded"
    assert nvml(monkeypatch, count=0)[1].absent == "no GPU"
    monkeypatch.setitem(sys.modules, "fake_nvml", None)
    assert "nvidia-ml-py" in str(Nvml("fake_nvml").absent)


def test_this_process_has_memory() -> None:
    pytest.importorskip("psutil")
    source = ProcessUse()
    memory = source.memory_bytes()
    assert memory is not None and memory > 1 << 20
    assert source.read()["memory:process"] > 1 << 20


def test_cpu_use_is_that_since_the_reading_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores, of which this process keeps one busy and others half of one."""
    now = [0.0]
    process = SimpleNamespace(
        memory_info=lambda: SimpleNamespace(rss=7),
        cpu_times=lambda: SimpleNamespace(user=now[0] * 0.75, system=now[0] / 4),
    )
    fake = SimpleNamespace(
        Process=lambda _: process,
        cpu_count=lambda: 4,
        cpu_times=lambda: SimpleNamespace(idle=now[0] * 2.0, iowait=now[0] * 0.5),
    )
    monkeypatch.setitem(sys.modules, "psutil", fake)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    source = ProcessUse()
    assert source.read() == {"memory:process": 7.0}  # too soon to tell
    now[0] = 2.0
    assert source.read() == {"memory:process": 7.0, "cpu:process": 1.0, "cpu:machine": 1.5}


def test_without_psutil_there_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    source = ProcessUse()
    assert "psutil" in str(source.absent) and source.memory_bytes() is None


def test_a_kind_without_series_says_why() -> None:
    class Broken(Source):
        name, kinds, absent = "broken", ("power", "temperature"), "out of order"

    class Mute(Source):
        name, kinds = "mute", ("power",)

    found = missing_kinds([Broken(), Mute()], ["temperature:cpu"])
    assert set(found) == set(KINDS) - {"temperature"}
    assert found["power"] == ["broken: out of order", "mute: gave nothing that makes sense"]
    assert found["clock"] == ["nothing here tells"]


def test_equal_labels_are_told_apart() -> None:
    paths = [("a", Path("1")), ("a", Path("2")), (None, Path("x/3")), ("a", Path("4"))]
    assert labelled(paths) == {"a": Path("1"), "a 2": Path("2"), "3": Path("x/3"), "a 3": Path("4")}
