"""What `tegrastats` prints on a Jetson: use of the GPU, temperatures, power of the rails."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading

from rs4d_edge.bench.sources import Source

INTERVAL_MS = 1000

_GPU = re.compile(r"\bGR3D_FREQ (\d+)%")
_CLOCK = re.compile(r"\bGR3D_FREQ \d+%@\[?(\d+)")
_TEMPERATURE = re.compile(r"\b([A-Za-z][\w-]*)@(-?\d+(?:\.\d+)?)C\b")
_RAIL = re.compile(r"\b((?:VDD|VIN|POM)_\w+) (\d+)(?:mW)?/\d+")


class Tegrastats(Source):
    """Runs the program and keeps its last line."""

    name = "tegrastats"
    kinds = ("gpu", "temperature", "clock", "power")

    def __init__(self, program: str = "tegrastats") -> None:
        self._line = ""
        self._process: subprocess.Popen[str] | None = None
        found = shutil.which(program)
        if found is None:
            self.absent = "the program, which comes with a Jetson's system, is not here"
            return
        try:
            self._process = subprocess.Popen(
                [found, "--interval", str(INTERVAL_MS)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError as error:
            self.absent = f"the program does not start: {error.strerror}"
            return
        self._reader = threading.Thread(target=self._keep_last_line, daemon=True)
        self._reader.start()

    def _keep_last_line(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            for line in self._process.stdout:
                self._line = line

    def read(self) -> dict[str, float]:
        """Of the last line; nothing before the first."""
        return parse_tegrastats(self._line)

    def close(self) -> None:
        """End the program."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._reader.join()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None


def parse_tegrastats(line: str) -> dict[str, float]:
    """Percent, degrees Celsius, MHz and watts of one line, by series; -256 degrees are a sensor that is off."""
    found: dict[str, float] = {}
    if use := _GPU.search(line):
        found["gpu:GR3D"] = float(use[1])
    if clock := _CLOCK.search(line):
        found["clock:GR3D"] = float(clock[1])
    for label, value in _TEMPERATURE.findall(line):
        if float(value) > -100 and not label.upper().startswith("PMIC"):  # a constant 100 degrees
            found[f"temperature:{label}"] = float(value)
    for label, value in _RAIL.findall(line):
        found[f"power:{label}"] = float(value) / 1e3
    return found
