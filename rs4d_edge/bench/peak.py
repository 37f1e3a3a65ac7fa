"""The largest resident memory of this process."""

from __future__ import annotations

import sys
from pathlib import Path


def resident_peak_bytes() -> int:
    """The largest resident memory of this process so far, or since `reset_peak`.

    From /proc where there is one: what getrusage tells of a process begins with the memory of the one that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most << 10


def reset_peak(path: Path = Path("/proc/self/clear_refs")) -> bool:
    """Let the peak begin anew, which Linux allows; whether it did."""
    try:
        path.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
