from __future__ import annotations

from pathlib import Path

import pytest

from rs4d_edge.bench.every_source import open_sources
from rs4d_edge.bench.identity import ABSENT, device_record


def test_what_is_not_told_is_not_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    record = device_record(("numpy", "no-such-package"), root=tmp_path)
    for name in ("board", "gpus", "governors", "energy_preferences", "power_mode", "memory_bytes"):
        assert record[name] == ABSENT
    assert set(record["packages"]) >= {"numpy"} and "no-such-package" not in record["packages"]
    assert record["usable_cores"] >= 1


def test_board_governor_and_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "proc/device-tree/model": "A small board\0",
        "proc/meminfo": "MemTotal:        1024 kB\nMemFree: 3 kB\n",
        "sys/firmware/acpi/platform_profile": "balanced\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    record = device_record((), ["A GPU"], tmp_path)
    assert (record["board"], record["memory_bytes"], record["gpus"]) == ("A small board", 1 << 20, ["A GPU"])
    assert (record["governors"], record["power_mode"]) == (["performance", "schedutil"], "balanced")
    program = tmp_path / "bin" / "nvpmodel"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'NV Power Mode: MAXN'\necho 0\n")
    program.chmod(0o755)
    assert device_record((), root=tmp_path)["power_mode"] == "MAXN"


def test_every_source_is_opened_whether_it_is_there_or_not(tmp_path: Path) -> None:
    with open_sources(tmp_path) as sources:
        names = {source.name for source in sources}
        assert {"psutil", "NVML", "tegrastats"} <= names and len(names) == 8
        assert all(source.absent for source in sources if "/sys" in source.name)
