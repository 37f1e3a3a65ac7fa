"""The figures of `rs4d-bench --matrix` as a table of the console and as one of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from rs4d_edge.commands.matrix_rows import BASELINE, NOTABLE_DROP

_HEADINGS = (
    *("box\nAP", "mask\nAP", "mask\nAP50"),
    *("time\nms", "of\nfp32", "of best\nfp32", "size\nMB", "of\nfp32", "peak\nMB"),
)
_MARKDOWN = ("what", "box AP", "mask AP", "mask AP50", "latency", "of the fastest fp32", "size", "peak memory", "notes")


def matrix_table(record: dict[str, Any]) -> Table:
    """One row for each bundle; what there is to say of it stands in `notes`."""
    title = escape(f"{record['model']}: forms beside each other")
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)  # fits 80 columns
    table.add_column(overflow="fold", min_width=13)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in record["rows"]:
        if row["refused"] is not None:
            table.add_row(escape(row["what"]), "refused", style="dim")
            continue
        cells = (
            *_accuracy(row),
            _number(row["p50_ms"], 1),
            _number(row["latency_ratio"], 2),
            _number(row["latency_ratio_to_fastest_fp32"], 2),
            _number(_megabytes(row["model_bytes"]), 1),
            _number(row["size_ratio"], 2),
            _number(_megabytes(row["peak_bytes"]), 0),
        )
        table.add_row(escape(row["what"]), *cells, style="bold" if row["precision"] == BASELINE else None)
    return table


def notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Of each row that there is more to say about, one line for each thing."""
    return [f"{row['what']}: {text}" for row in rows for text in _remarks(row)]


def conditions(record: dict[str, Any]) -> str:
    """Where, when and on what the figures were measured, in one sentence."""
    machine = record["machine"]
    engines = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    load = f", load {machine['load_average'][0]:g} at the start" if machine["load_average"] else ""
    return (
        f"{machine['processor']}, {machine['cores']} cores{load}, {machine['time'][:10]}, {engines}; "
        f"{record['threads']} threads, {record['images']} images of {Path(record['data']).name}; times are medians of "
        f"{record['runs']} runs in turns over {record['frames']} frames, after a warm-up."
    )


def markdown(record: dict[str, Any]) -> str:
    """The table in Markdown, with the command and the conditions ahead of it."""
    lines = [f"`{record['command']}`: {conditions(record)}", ""]
    lines.append("| " + " | ".join(_MARKDOWN) + " |")
    lines.append("| --- |" + " ---: |" * (len(_MARKDOWN) - 2) + " --- |")
    lines += [f"| {' | '.join(_markdown_cells(row))} |" for row in record["rows"]]
    lines += [
        "",
        "In brackets: of the same target's fp32. Peak memory is that of a process that opens the bundle and runs a few "
        f"frames. Notes name the classes that lost more than {NOTABLE_DROP} mask AP50 against fp32 of the same target.",
    ]
    return "\n".join(lines) + "\n"


def _markdown_cells(row: dict[str, Any]) -> list[str]:
    what = f"`{row['options'] or row['what']}`"
    remarks = "; ".join(_remarks(row)).replace("|", "\\|").replace("\n", " ")
    if row["refused"] is not None:
        return [what, *[""] * (len(_MARKDOWN) - 2), remarks]
    return [
        what,
        *_accuracy(row),
        _with_ratio(row["p50_ms"], 1, "ms", row, "latency_ratio"),
        _number(row["latency_ratio_to_fastest_fp32"], 2),
        _with_ratio(_megabytes(row["model_bytes"]), 1, "MB", row, "size_ratio"),
        _with_ratio(_megabytes(row["peak_bytes"]), 0, "MB", row, "peak_ratio"),
        remarks,
    ]


def _remarks(row: dict[str, Any]) -> list[str]:
    if row["refused"] is not None:
        return [f"refused: {row['refused']}"]
    remarks = []
    if row["lost_classes"]:
        lost = ", ".join(f"{name} {drop:.3f}" for name, drop in row["lost_classes"].items())
        remarks.append(f"lost mask AP50: {lost}")
    if row["peak_absent"] is not None:
        remarks.append(f"peak memory not known: {row['peak_absent']}")
    return remarks


def _accuracy(row: dict[str, Any]) -> tuple[str, str, str]:
    box, mask = row["box"], row["mask"]
    return _number(box["AP"], 3), _number(mask["AP"], 3), _number(mask["AP50"], 3)


def _with_ratio(value: float | None, digits: int, unit: str, row: dict[str, Any], ratio: str) -> str:
    if value is None:
        return "-"
    share = "" if row[ratio] is None or row["precision"] == BASELINE else f" ({row[ratio]:.2f})"
    return f"{value:.{digits}f} {unit}{share}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _megabytes(size: int | None) -> float | None:
    return None if size is None else size / 1e6
