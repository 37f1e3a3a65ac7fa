"""What Linux tells under /sys: temperatures, clocks, throttling, power and energy. `root` is / except in tests."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

from rs4d_edge.bench.sources import Source, labelled, read_number, read_text

COLDEST_C, HOTTEST_C = -60.0, 150.0  # outside of it a sensor is broken or not connected
FIXED_ZONES = re.compile(r"^PMIC", re.IGNORECASE)  # on Jetson a constant 100 degrees
GPU_DEVICES = re.compile(r"gpu|mali|v3d|gv11b|ga10b|gp10b", re.IGNORECASE)
SLOWED_DEVICES = re.compile(r"cpu|gpu|processor", re.IGNORECASE)  # and not fans, which are cooling devices, too


class Temperatures(Source):
    """Thermal zones and the temperatures of hwmon, in degrees Celsius."""

    name = "/sys/class/thermal and /sys/class/hwmon"
    kinds = ("temperature",)

    def __init__(self, root: Path = Path("/")) -> None:
        zones = [
            (read_text(zone / "type"), zone / "temp") for zone in _numbered(root, "sys/class/thermal/thermal_zone*")
        ]
        zones = [(label, path) for label, path in zones if not FIXED_ZONES.match(label or "")]
        for path in _numbered(root, "sys/class/hwmon/hwmon*/temp*_input"):
            chip = read_text(path.parent / "name") or path.parent.name
            what = read_text(path.with_name(path.name.replace("_input", "_label")))
            zones.append((f"{chip} {what}" if what else chip, path))
        self._paths = labelled(zones)
        if not self.read():
            self.absent = "no sensor"

    def read(self) -> dict[str, float]:
        """Degrees Celsius by sensor."""
        values = {label: read_number(path) for label, path in self._paths.items()}
        return {
            f"temperature:{label}": value / 1000
            for label, value in values.items()
            if value is not None and COLDEST_C <= value / 1000 <= HOTTEST_C
        }


class Clocks(Source):
    """The CPU's clock, as mean and lowest of its cores, and the GPU's where devfreq has it, in MHz."""

    name = "cpufreq and devfreq under /sys"
    kinds = ("clock",)

    def __init__(self, root: Path = Path("/")) -> None:
        self._cores = _numbered(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        found = [path / "cur_freq" for path in _numbered(root, "sys/class/devfreq/*") if GPU_DEVICES.search(path.name)]
        self._gpus = labelled((f"GPU {path.parent.name}", path) for path in found)
        if not self.read():
            self.absent = "no clock"

    def read(self) -> dict[str, float]:
        """MHz."""
        cores = [value / 1e3 for path in self._cores if (value := read_number(path)) is not None and value > 0]
        clocks = {"clock:CPU mean": statistics.fmean(cores), "clock:CPU lowest": min(cores)} if cores else {}
        for label, path in self._gpus.items():
            value = read_number(path)
            if value is not None and value > 0:
                clocks[f"clock:{label}"] = value / 1e6
        return clocks


class Throttling(Source):
    """Counters of Intel's CPUs, the state of cooling devices that slow a CPU or GPU down, a Raspberry Pi's firmware.

    A state of 0 is none; the Pi's has bits for low voltage (1), capped clock (2), throttled (4) and soft limit (8).
    """

    name = "thermal_throttle, cooling devices and firmware under /sys"
    kinds = ("throttle_count", "throttle_state")

    def __init__(self, root: Path = Path("/")) -> None:
        counters = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count"
        self._counters: dict[str, list[Path]] = {}
        for path in _numbered(root, counters):
            self._counters.setdefault(path.name.split("_")[0], []).append(path)
        devices = [
            (read_text(path / "type"), path / "cur_state")
            for path in _numbered(root, "sys/class/thermal/cooling_device*")
        ]
        self._devices = labelled((label, path) for label, path in devices if SLOWED_DEVICES.search(label or ""))
        self._firmware = root / "sys/devices/platform/soc/soc:firmware/get_throttled"
        if not self.read():
            self.absent = "no counter, cooling device or firmware"

    def read(self) -> dict[str, float]:
        """Counts since boot, and states."""
        found: dict[str, float] = {}
        for what, paths in self._counters.items():
            counts = [value for path in paths if (value := read_number(path)) is not None]
            if counts:  # every core shows its package's count
                found[f"throttle_count:{what}"] = sum(counts) if what == "core" else max(counts)
        for label, path in self._devices.items():
            value = read_number(path)
            if value is not None and value >= 0:
                found[f"throttle_state:{label}"] = value
        bits = read_number(self._firmware, base=16)
        if bits is not None:
            found["throttle_state:firmware"] = float(int(bits) & 0xF)
        return found


class Rapl(Source):
    """Energy counters of Intel's and AMD's CPUs (RAPL), in joules; since 2020 Linux shows them to root alone."""

    name = "RAPL under /sys/class/powercap"
    kinds = ("energy",)

    def __init__(self, root: Path = Path("/")) -> None:
        found = _numbered(root, "sys/class/powercap/*/energy_uj")
        # Zones below these are parts of them, and -mmio is the same counter by another way.
        zones = [path for path in found if path.parent.name.count(":") == 1 and "mmio" not in path.parent.name]
        self._zones = labelled((read_text(path.parent / "name"), path) for path in zones)
        self._range = {name: read_number(path.with_name("max_energy_range_uj")) for name, path in self._zones.items()}
        self._last: dict[str, float] = {}
        self._total: dict[str, float] = {}
        if not zones:
            self.absent = "no counter"
        elif not self.read():
            self.absent = "the counters cannot be read, which Linux leaves to root"

    def read(self) -> dict[str, float]:
        """Joules since this was made, through the counter's beginning anew."""
        for label, path in self._zones.items():
            value = read_number(path)
            if value is None:
                continue
            step = value - self._last.get(label, value)
            if step < 0:
                step += self._range[label] or -step  # not known: what was counted in between is lost
            self._last[label] = value
            self._total[label] = self._total.get(label, 0.0) + step
        return {f"energy:{label}": total / 1e6 for label, total in self._total.items()}


class PowerRails(Source):
    """Power sensors of hwmon, and voltage times current of INA chips, as on Jetson boards, in watts."""

    name = "power under /sys/class/hwmon"
    kinds = ("power",)

    def __init__(self, root: Path = Path("/")) -> None:
        rails = []
        for pattern in ("power*_average", "power*_input"):
            for path in _numbered(root, f"sys/class/hwmon/hwmon*/{pattern}"):
                if pattern.endswith("_input") and path.with_name(path.name.replace("_input", "_average")).exists():
                    continue  # the same rail
                chip = read_text(path.parent / "name") or path.parent.name
                what = read_text(path.parent / f"{path.name.split('_')[0]}_label")
                rails.append((f"{chip} {what}" if what else chip, path))
        self._rails = labelled(rails)
        currents = [
            path
            for path in _numbered(root, "sys/class/hwmon/hwmon*/curr*_input")
            if (read_text(path.parent / "name") or "").startswith("ina") and _volts(path).exists()
        ]
        self._products = labelled(
            (read_text(Path(str(_volts(path)).replace("_input", "_label"))), path) for path in currents
        )
        if not self.read():
            self.absent = "no sensor"

    def read(self) -> dict[str, float]:
        """Watts by rail."""
        found = {}
        for label, path in self._rails.items():
            value = read_number(path)
            if value is not None and value >= 0:
                found[f"power:{label}"] = value / 1e6
        for label, path in self._products.items():
            current, voltage = read_number(path), read_number(_volts(path))
            if current is not None and voltage is not None and current >= 0:
                found[f"power:{label}"] = current * voltage / 1e6  # mA times mV
        return found


def _volts(current: Path) -> Path:
    return current.with_name(current.name.replace("curr", "in"))


def _numbered(root: Path, pattern: str) -> list[Path]:
    """What matches, 2 before 10."""
    return sorted(
        root.glob(pattern),
        key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))],
    )
