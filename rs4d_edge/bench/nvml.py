"""What NVIDIA's driver tells of its GPUs, by the package nvidia-ml-py."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from rs4d_edge.bench.sources import Source

# Reasons for a lower clock that are not idleness or a setting: power cap, hardware slowdown, heat (two), power brake.
SLOWED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80


class Nvml(Source):
    """Memory, use, temperature, clock, power, energy and slowdown of each GPU.

    `throttle_state` holds NVML's bits of reasons (4 power cap, 8 hardware slowdown, 32 and 64 heat, 128 power brake).
    """

    name = "NVML"
    kinds = ("gpu_memory", "gpu", "temperature", "clock", "power", "energy", "throttle_state")

    def __init__(self, package: str = "pynvml") -> None:
        self._devices: list[Any] = []
        self.gpus: list[str] = []
        self.driver: str | None = None
        try:
            self._nvml: Any = importlib.import_module(package)
        except ImportError:
            self.absent = "the package nvidia-ml-py is not installed"
            return
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
            self._devices = [self._nvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
            self.gpus = [_plain(self._nvml.nvmlDeviceGetName(device)) for device in self._devices]
            self.driver = _plain(self._nvml.nvmlSystemGetDriverVersion())
        except self._nvml.NVMLError as error:
            self.absent = str(error)
            return
        if not self._devices:
            self.absent = "no GPU"

    def read(self) -> dict[str, float]:
        """The values of every GPU that its driver gives; what one does not support is left out."""
        found: dict[str, float] = {}
        for number, device in enumerate(self._devices):
            for series, ask in self._questions(device):
                try:
                    value = ask()
                except (self._nvml.NVMLError, AttributeError):  # not told by this GPU, or not asked by this package
                    continue
                if value is not None:
                    found[f"{series[0]}:GPU{number}{series[1]}"] = float(value)
        return found

    def _questions(self, device: Any) -> list[tuple[tuple[str, str], Callable[[], float | None]]]:
        nvml = self._nvml
        return [
            (("gpu_memory", " this process"), lambda: self._own_memory(device)),
            (("gpu_memory", " in use"), lambda: nvml.nvmlDeviceGetMemoryInfo(device).used),
            (("gpu", ""), lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu),
            (("temperature", ""), lambda: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU)),
            (("clock", ""), lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM)),
            (("power", ""), lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1e3),
            (("energy", ""), lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(device) / 1e3),
            (("throttle_state", ""), lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device) & SLOWED),
        ]

    def _own_memory(self, device: Any) -> float | None:
        """Bytes of this process; None where it has none, or where a container hides whose they are."""
        for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(device):
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return float(process.usedGpuMemory)
        return None

    def close(self) -> None:
        """Let go of the driver."""
        if self._devices:
            self._devices = []
            self._nvml.nvmlShutdown()


def _plain(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
