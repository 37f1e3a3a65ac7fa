"""All sources that a device may have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rs4d_edge.bench.nvml import Nvml
from rs4d_edge.bench.sources import ProcessUse, Source
from rs4d_edge.bench.sysfs import Clocks, PowerRails, Rapl, Temperatures, Throttling
from rs4d_edge.bench.tegrastats import Tegrastats


@contextmanager
def open_sources(root: Path = Path("/")) -> Iterator[list[Source]]:
    """Every source, available or not; what was started for them is ended after."""
    of_linux = [kind(root) for kind in (Temperatures, Clocks, Throttling, Rapl, PowerRails)]
    sources: list[Source] = [ProcessUse(), *of_linux, Nvml(), Tegrastats()]
    try:
        yield sources
    finally:
        for source in sources:
            source.close()
