"""The figures of `rs4d-bench` as tables."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table


def summary(record: dict[str, Any]) -> str:
    """What was run, on what, in one line."""
    size, frame = (f"{sides[0]}x{sides[1]}" for sides in (record["input_hw"], record["frame_hw"]))
    threads = "the engine's choice of threads" if record["threads"] is None else f"{record['threads']} threads"
    return (
        f"{escape(record['model'])}, {record['runtime']} {record['precision']}, input {size}, {threads}; "
        f"a frame of {frame} pixels with {record['objects']} objects found; {record['runs']} runs"
    )


def latency_table(figures: dict[str, dict[str, float]]) -> Table:
    """One row for each stage; percentiles over the runs."""
    table = Table("stage", title="Frame in, detections out: milliseconds")
    for heading in ("median", "90 %", "max"):
        table.add_column(heading, justify="right")
    for stage, values in figures.items():
        cells = (f"{values[name]:.2f}" for name in ("p50_ms", "p90_ms", "max_ms"))
        table.add_row(stage, *cells, style="bold" if stage == "total" else None)
    return table


def share_table(title: str, shares: list[dict[str, Any]], total_ms: float, most: int | None = None) -> Table:
    """Time and share of each; what is beyond `most` rows is added up in one."""
    table = Table("", title=title)
    for heading in ("ms", "share", "nodes"):
        table.add_column(heading, justify="right")
    rest = shares[most:] if most is not None else []
    rows = shares[: len(shares) - len(rest)]
    if rest:
        added = {"ms": sum(row["ms"] for row in rest), "nodes": sum(row["nodes"] for row in rest)}
        rows = [*rows, {"label": f"{len(rest)} more", **added}]
    for row in rows:
        share = row["ms"] / total_ms if total_ms else 0.0
        table.add_row(escape(row["label"]), f"{row['ms']:.2f}", f"{share:.1%}", str(row["nodes"] or ""))
    return table


def moves_table(moves: list[dict[str, Any]], least_bytes: int, most: int = 20) -> Table:
    """Transposes, reorders, conversions and copies of large tensors, by name."""
    table = Table(title=f"Moved without arithmetic, from {least_bytes >> 10} KiB on")
    for heading in ("node", "kind", "shape"):
        table.add_column(heading, overflow="fold")  # names are to be looked up in the graph
    for heading in ("MB", "times", "ms"):
        table.add_column(heading, justify="right")
    for move in moves[:most]:
        shape = "x".join(map(str, move["shape"]))
        cells = (f"{move['size_bytes'] / 1e6:.2f}", str(move["alike"]), f"{move['ms']:.2f}")
        table.add_row(escape(move["name"]), move["kind"], shape, *cells)
    if len(moves) > most:
        rest = moves[most:]
        table.add_row(f"{len(rest)} more", "", "", "", "", f"{sum(move['ms'] for move in rest):.2f}")
    total = sum(move["ms"] for move in moves)
    table.add_row("all", "", "", "", str(sum(move["alike"] for move in moves)), f"{total:.2f}", style="bold")
    return table
