"""One bundle or peer of `rs4d-bench`: measured, and printed as soon as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from rs4d_edge.bench.beside import over_bundle
from rs4d_edge.bench.measuring import Plan, measure_bundle
from rs4d_edge.bench.sources import Source
from rs4d_edge.bench.streams import Opener
from rs4d_edge.commands.bench_tables import device_table, notes
from rs4d_edge.errors import RS4DError
from rs4d_edge.frames import Frame

TURNS_SHARE = 0.25  # of the measurement's time, for a peer and its bundle in turns


def measure_one(
    plan: Plan,
    sources: Sequence[Source],
    console: Console,
    record: dict[str, Any],
    opener: Opener,
    frame: Frame,
    *,
    beside: Opener | None = None,
) -> None:
    """Fill the record of a bundle, or with the bundle that stands `beside` it, of a peer."""
    with console.status(escape(record["label"])) as status:
        progress = partial(_show, status, record["label"])
        record |= measure_bundle(opener, frame, plan, sources, progress=progress)
        if beside is not None:
            progress("in turns with the bundle")
            record["over_bundle"] |= over_bundle(beside, opener, frame, plan.seconds * TURNS_SHARE)
    if not record.get("interpreted", True):
        record["objects"] = None  # nobody looked for any
    console.print(device_table(record))
    for note in notes(record):
        console.print(escape(note), soft_wrap=True)


def failure_of(measure: Callable[[], None]) -> str | None:
    """What a deliberate error said, once everything else has been measured."""
    try:
        measure()
    except RS4DError as error:
        return str(error)
    return None


def _show(status: Status, label: str, text: str) -> None:
    status.update(f"{escape(label)}: {text}")
