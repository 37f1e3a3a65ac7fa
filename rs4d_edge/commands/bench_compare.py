"""`rs4d-bench --compare A.json B.json`: what changed beyond noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rs4d_edge.bench.comparing import CONFIDENCE, Change, Pair, compare, compare_peers, read_record
from rs4d_edge.errors import InputError
from rs4d_edge.whole_file import write_json

SLOWER = 3  # the status that says so: 1 is bad input, 2 a wrong option


def run_compare(sources: tuple[Path, ...], threshold: float, json_path: Path | None, console: Console) -> bool:
    """Print, and write if asked for; whether a bundle has become slower beyond threshold and noise."""
    if len(sources) != 2:
        raise InputError(
            f"--compare takes two files that rs4d-bench --json wrote, before and after: got {len(sources)}"
        )
    if json_path is not None and json_path.is_dir():
        raise InputError(f"--json {json_path} is a folder: name a file")
    before, after = map(read_record, sources)
    pairs, alone = compare(before, after, threshold)
    peers = compare_peers(before, after, threshold)
    for pair in (*pairs, *peers):
        console.print(_table(pair))
        for condition in pair.conditions:
            console.print(f"[yellow]measured differently:[/yellow] {escape(condition)}", soft_wrap=True)
    if peers:
        console.print("Peers have no part in the verdict: where they changed too, the machine did.", soft_wrap=True)
    for label in alone:
        console.print(f"{escape(label)} is in one record alone", soft_wrap=True)
    slower = [pair.label for pair in pairs if pair.slower]
    console.print(
        f"slower by more than {threshold:.0%}, and beyond noise: {escape(', '.join(slower))}"
        if slower
        else f"nothing is slower by more than {threshold:.0%} beyond noise",
        soft_wrap=True,
    )
    if json_path is not None:
        write_json(_record(sources, threshold, pairs, peers, alone), json_path)
    return bool(slower)


def _table(pair: Pair) -> Table:
    table = Table("", title=escape(pair.label), caption=f"intervals: {CONFIDENCE:.0%}, by bootstrap over the runs")
    for heading in ("before", "after", "ratio", "interval"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for change in pair.changes:
        interval = f"{change.low:.3f} to {change.high:.3f}"
        cells = (f"{change.before_ms:.2f}", f"{change.after_ms:.2f}", f"{change.ratio:.3f}", interval)
        style = "bold" if change.stage == "total" else None
        table.add_row(f"{change.stage}, p{change.rank}, ms", *cells, change.finding, style=style)
    for name, (before, after) in pair.also.items():
        ratio = f"{after / before:.3f}" if before else "-"
        table.add_row(name, f"{before:.2f}", f"{after:.2f}", ratio)
    return table


def _record(
    sources: tuple[Path, ...], threshold: float, pairs: list[Pair], peers: list[Pair], alone: list[str]
) -> dict[str, Any]:
    return {
        "before": str(sources[0]),
        "after": str(sources[1]),
        "threshold": threshold,
        "bundles": [{"label": pair.label, "slower": pair.slower, **_findings(pair)} for pair in pairs],
        "peers": [{"label": pair.label, **_findings(pair)} for pair in peers],
        "in_one_alone": alone,
    }


def _findings(pair: Pair) -> dict[str, Any]:
    return {
        "changes": [_finite(change) for change in pair.changes],
        "also": {name: list(values) for name, values in pair.also.items()},
        "measured_differently": pair.conditions,
    }


def _finite(change: Change) -> dict[str, Any]:
    """A stage that took no time before has no ratio."""
    entries = change._asdict()
    return {name: None if isinstance(each, float) and math.isinf(each) else each for name, each in entries.items()}
