"""A benchmark as one HTML page that needs nothing but itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from rs4d_edge.bench.beside import over_text
from rs4d_edge.bench.report_plots import (
    accuracy_plot,
    distribution_plot,
    highest,
    sensor_plot,
    stages_plot,
    streams_plot,
    timeline_plot,
)
from rs4d_edge.bench.sources import COUNTERS, KINDS, shown
from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.report_style import columns, figure, html_page, table, tiles
from rs4d_edge.whole_file import write_text

Record = dict[str, Any]
ABSENT = "not available here"
PLOTTED = ("memory", "gpu_memory", "temperature", "clock", "power", "cpu", "throttle_state")
LATENCY_HEADS = ("p50", "p90", "p95", "p99", "max")


def require_plots() -> None:
    """Raise `RuntimeUnavailable` now, and not after an hour's soak, where the package that draws is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise RuntimeUnavailable(
            "--report draws with the package matplotlib, which is not installed: pip install matplotlib; or write "
            "--json here and make the page elsewhere, with rs4d-bench RECORD.json --report PAGE.html"
        )


def write_report(record: Record, path: Path) -> None:
    """Write the page of a record of `rs4d-bench`, peers after the bundles. `InputError` where it cannot be written."""
    measured = _measured(record)
    title = f"{measured[0]['model']} on {record['machine']['processor']}"
    body = [f"<h1>{escape(title)}</h1>", _over_all(measured)]
    for place, each in enumerate(measured, start=1):
        body += _one(place, each)
    body += ["<h2>Machine</h2>", table("machine", ("", ""), _machine_rows(record), kind="wrap words")]
    write_text(html_page(f"{title}: benchmark", body), path)


def _measured(record: Record) -> list[Record]:
    return [*record["bundles"], *record.get("peers", ())]


def _over_all(bundles: list[Record]) -> str:
    figures = [
        figure("distribution", distribution_plot(bundles), _distribution_caption(bundles)),
        figure("stages", stages_plot(bundles), "Where the time of a frame goes, medians of each stage."),
    ]
    known = [each for each in bundles if each["accuracy"] is not None and each["accuracy"]["mask_ap"] is not None]
    if known:
        caption = "Mask AP against the median latency. A hollow point is the AP of the reference that was exported."
        figures.append(figure("accuracy", accuracy_plot(known), caption))
    several = [each for each in bundles if each.get("streams")]
    if several:
        figures.append(figure("streams", streams_plot(several), "Throughput with several Predictors at once."))
    heads = ("bundle", "median ms", "p99 ms", "frames/s", "peak MB", "J/frame", "mask AP")
    return columns([*figures, table("bundles", heads, map(_bundle_row, bundles))])


def _distribution_caption(bundles: list[Record]) -> str:
    deadline = bundles[0]["deadline"]
    dotted = "" if deadline is None else f" The dotted line is the deadline of {deadline['deadline_ms']:g} ms."
    return f"Latency from the frame to its masks; the slowest 0.5 % lie further right.{dotted}"


def _bundle_row(record: Record) -> list[str]:
    total, energy, accuracy = record["latency"]["total"], record["joules_per_frame"], record["accuracy"]
    return [
        record["label"],
        f"{total['p50_ms']:.2f}",
        f"{total['p99_ms']:.2f}",
        f"{record['frames_per_s']:.2f}",
        f"{record['memory']['peak_bytes'] / 1e6:.0f}",
        ", ".join(f"{value:.3g} ({label})" for label, value in energy.items()) or "-",
        "-" if accuracy is None or accuracy["mask_ap"] is None else f"{accuracy['mask_ap']:.3f}",
    ]


def _one(place: int, record: Record) -> Iterator[str]:
    yield f"<h2>{escape(record['label'])}</h2>"
    if "peer" in record:
        yield f'<p class="note">{escape(record["about"])} Weights: {escape(record["weights"])}.</p>'
    yield tiles(_tile_values(record))
    warm_up = record["warm_up"]
    if not warm_up["steady"]:
        yield f'<p class="note">The warm-up ended after {warm_up["runs"]} runs without having become steady.</p>'
    figures = [figure(f"timeline-{place}", timeline_plot(f"timeline-{place}", record), _TIMELINE)]
    for kind in PLOTTED:
        name = f"{kind.replace('_', '-')}-{place}"
        if highest(kind, record):
            figures.append(figure(name, sensor_plot(name, kind, record), _sensor_caption(kind, record)))
    latency = [
        [stage, *(f"{values[f'{head}_ms']:.2f}" for head in LATENCY_HEADS)]
        for stage, values in record["latency"].items()
    ]
    figures.append(table(f"latency-{place}", ("stage, ms", *LATENCY_HEADS), latency))
    if "soak" in record:
        figures.append(table(f"minutes-{place}", ("minute", "runs", "p50", "p99", "max", "MB"), _minutes(record)))
    yield columns(figures)
    yield table(f"sensors-{place}", ("sensor", "mean", "least", "most", "growth"), _sensor_rows(record))
    absent = [[KINDS[kind][0], f"{ABSENT} ({'; '.join(why)})"] for kind, why in record["sensors"]["absent"].items()]
    if absent:
        yield table(f"absent-{place}", ("sensor", "why there are no figures"), absent, kind="wrap words")


_TIMELINE = "Latency over time: the line is the median of each stretch, the band its fastest and slowest frame."


def _tile_values(record: Record) -> Iterator[tuple[str, str]]:
    yield "runtime", f"{record['runtime']} {record['precision']}"
    yield "runs", f"{record['runs']:,} in {record['seconds']:.0f} s"
    yield "frames/s", f"{record['frames_per_s']:.2f}"
    yield "median", f"{record['latency']['total']['p50_ms']:.2f} ms"
    yield "99 %", f"{record['latency']['total']['p99_ms']:.2f} ms"
    if record["jitter_ms"] is not None:
        yield "jitter", f"{record['jitter_ms']:.2f} ms"
    yield "loading", f"{record['load_ms']:.0f} ms"
    yield "first frame", f"{record['first_frame_ms']:.0f} ms"
    if record["deadline"] is not None:
        deadline = record["deadline"]
        yield f"later than {deadline['deadline_ms']:g} ms", f"{deadline['misses']:,} ({deadline['share']:.2%})"
    if "over_bundle" in record:
        yield "times a bundle's, in turns", over_text(record["over_bundle"])
    yield "peak memory", f"{record['memory']['peak_bytes'] / 1e6:.0f} MB"
    if "soak" in record:
        yield "soak", record["soak"]["verdict"]


def _minutes(record: Record) -> Iterator[list[str]]:
    for each in record["minutes"]:
        times = [f"{each[name]:.2f}" for name in ("p50_ms", "p99_ms", "max_ms")]
        memory = "-" if each["memory_bytes"] is None else f"{each['memory_bytes'] / 1e6:.0f}"
        yield [str(each["minute"]), str(each["runs"]), *times, memory]


def _sensor_rows(record: Record) -> Iterator[list[str]]:
    for series, values in record["sensors"]["summary"].items():
        kind, label = series.split(":", 1)
        what = KINDS[kind][0]
        names = ("growth",) if kind in COUNTERS else ("mean", "least", "most", "growth")
        cells = {name: shown(kind, values[name]) for name in names}
        yield [f"{what}: {label}", *(cells.get(name, "") for name in ("mean", "least", "most", "growth"))]


def _machine_rows(record: Record) -> Iterator[list[str]]:
    for name, value in record["machine"].items():
        text = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else value
        text = ", ".join(map(str, text)) if isinstance(text, list) else text
        if name == "memory_bytes" and isinstance(value, int):
            yield ["memory", f"{value / 1e6:,.0f} MB"]
        else:
            yield [name.replace("_", " "), str(text)]
    for each in _measured(record):
        hashes = {"manifest": each.get("manifest_sha256"), "file": each.get("file_sha256")}
        yield from ([f"SHA-256 of {each['label']}'s {of}", found] for of, found in hashes.items() if found)
        threads = "the engine's choice" if each["threads"] is None else str(each["threads"])
        yield [f"threads of {each['label']}", threads]


def _sensor_caption(kind: str, record: Record) -> str:
    name = KINDS[kind][0]
    every = sum(series.startswith(f"{kind}:") for series in record["sensors"]["series"])
    drawn = len(highest(kind, record))
    some = f", the {drawn} highest of {every}" if drawn < every else ""
    return f"{name[:1].upper()}{name[1:]} over time{some}."
