"""The figures of `rs4d-bench` as tables."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from rs4d_edge.bench.beside import over_text
from rs4d_edge.bench.sources import KINDS, shown


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


def device_table(record: dict[str, Any]) -> Table:
    """One row for each stage of a measurement on a device."""
    title = f"{record['label']}: {record['runtime']} {record['precision']}, {record['runs']:,} runs, milliseconds"
    table = Table("stage", title=escape(title))
    names = ("p50", "p90", "p95", "p99", "max")
    for heading in names:
        table.add_column(heading, justify="right")
    for stage, values in record["latency"].items():
        cells = (f"{values[f'{name}_ms']:.2f}" for name in names)
        table.add_row(stage, *cells, style="bold" if stage == "total" else None)
    return table


def peers_table(bundles: list[dict[str, Any]], peers: list[dict[str, Any]]) -> Table:
    """Bundles and peers beside each other; ratios are those of frames in turns."""
    table = Table("", title="Beside peers: a frame, from end to end")
    for heading in ("median, ms", "frames/s", "objects", "times a bundle's, in turns"):
        table.add_column(heading, justify="right")
    for record in (*bundles, *peers):
        figures = (f"{record['latency']['total']['p50_ms']:.2f}", f"{record['frames_per_s']:.2f}")
        objects = "-" if record["objects"] is None else str(record["objects"])
        ratio = over_text(record["over_bundle"]) if "over_bundle" in record else ""
        table.add_row(escape(record["label"]), *figures, objects, escape(ratio))
    return table


def notes(record: dict[str, Any]) -> list[str]:
    """What a measurement on a device says besides, a line each."""
    warm_up, memory = record["warm_up"], record["memory"]
    steady = "steady" if warm_up["steady"] else "not steady, so the figures hold the rest of it"
    jitter = "" if record["jitter_ms"] is None else f", jitter {record['jitter_ms']:.2f} ms"
    objects = "answers not interpreted" if record["objects"] is None else f"{record['objects']} objects"
    lines = [
        *([f"{record['about']} Weights: {record['weights']}."] if "peer" in record else []),
        f"loading {record['load_ms']:.0f} ms, first frame {record['first_frame_ms']:.0f} ms, warm-up "
        f"{warm_up['runs']} runs ({steady})",
        f"{record['frames_per_s']:.2f} frames/s{jitter}, {objects}",
        f"memory: at most {memory['peak_bytes'] / 1e6:.0f} MB since {memory['peak_since']}",
    ]
    if record["deadline"] is not None:
        deadline = record["deadline"]
        lines.append(f"later than {deadline['deadline_ms']:g} ms: {deadline['misses']:,} ({deadline['share']:.2%})")
    if "over_bundle" in record:
        lines.append(f"times a bundle's, in turns with it: {over_text(record['over_bundle'])}")
    lines += [_stream_note(streams) for streams in record.get("streams", ())]
    lines += [f"{value:.3g} J/frame ({label})" for label, value in record["joules_per_frame"].items()]
    lines += [_sensor_note(*each) for each in record["sensors"]["summary"].items()]
    absent = record["sensors"]["absent"]
    if absent:
        reasons = dict.fromkeys(reason for why in absent.values() for reason in why)
        lines.append(f"not available here: {', '.join(KINDS[kind][0] for kind in absent)} ({'; '.join(reasons)})")
    if "soak" in record:
        lines.append(_soak_note(record["soak"]))
    return lines


def _stream_note(found: dict[str, Any]) -> str:
    streams = f"{found['streams']} stream{'s' * (found['streams'] > 1)}"
    return f"{streams}: {found['frames_per_s']:.2f} frames/s, slowest stream's median {found['slowest_p50_ms']:.2f} ms"


def _sensor_note(series: str, values: dict[str, float]) -> str:
    kind, label = series.split(":", 1)
    what = f"{KINDS[kind][0]}, {label}"
    if "mean" not in values:
        return f"{what}: {shown(kind, values['growth'])} more"
    least, most, mean = (shown(kind, values[name]) for name in ("least", "most", "mean"))
    return f"{what}: {least} to {most}, mean {mean}"


def _soak_note(soak: dict[str, Any]) -> str:
    if "first" not in soak:
        return f"soak: {soak['verdict']}"
    first, last, growth = soak["first"], soak["last"], soak["memory_growth_bytes"]
    drift = f"{soak['latency_drift']:+.1%}, trend {soak['latency_trend']:+.1%}"
    memory = "" if growth is None else f", memory {growth / 1e6:+.1f} MB"
    return (
        f"soak, minute {first['minute']} and {last['minute']}: median {first['p50_ms']:.2f} and "
        f"{last['p50_ms']:.2f} ms ({drift}){memory}: {soak['verdict']}"
    )
