"""The plots of a benchmark's report, from its records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rs4d_edge.bench.sources import KINDS, SCALES
from rs4d_edge.report_svg import MUTED, SERIES, svg_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = dict[str, Any]
STAGES = ("resize", "infer", "post", "mask")
MOST_BINS = 60
TAIL_PERCENT = 99.5  # what takes longer than this many percent of the runs is left out of the distribution
TIMELINE_STEPS = 300
LONGEST_NAME = 34
MOST_SERIES = 12
FAR_APART = 10  # times: beyond it, the distributions are drawn over a logarithmic axis


def short(label: str) -> str:
    """A name for a legend, which matplotlib leaves out if it begins with an underscore."""
    label = label.lstrip("_") or "bundle"
    return label if len(label) <= LONGEST_NAME else f"{label[: LONGEST_NAME - 1]}…"


def distribution_plot(records: Sequence[Record]) -> str:
    """How many percent of the runs took how long, from end to end; the deadline as a dotted line."""
    totals = [np.asarray(record["times"]["stages_ms"]["total"]) for record in records]
    least = min(float(times.min()) for times in totals)
    most = max(float(np.percentile(times, TAIL_PERCENT)) for times in totals)
    bins = min(MOST_BINS, 2 * math.isqrt(max(map(len, totals))))
    far_apart = most > FAR_APART * least > 0
    edges = (np.geomspace if far_apart else np.linspace)(least, max(most, least + 0.01), bins + 1)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if far_apart:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")  # the axis's own would write powers of ten as TeX
            axes.xaxis.set_minor_formatter("")
        for place, (record, times) in enumerate(zip(records, totals, strict=True)):
            shares = np.histogram(times, edges)[0] * 100 / len(times)
            color = SERIES[place % len(SERIES)]
            axes.stairs(shares, edges, color=color, fill=True, alpha=0.2)
            axes.stairs(shares, edges, color=color, label=short(record["label"]))
        _deadline(axes, records[0], vertical=True)
        axes.set(xlabel="ms from the frame to its masks", ylabel="% of runs")
        figure.legend(loc="outside upper left", ncols=1)

    return svg_plot("distribution", "distribution of latency", draw, height_in=2.7 + 0.17 * len(records))


def stages_plot(records: Sequence[Record]) -> str:
    """Medians of the stages, one bar for each bundle."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        left = np.zeros(len(records))
        for place, stage in enumerate(STAGES):
            lengths = np.array([record["latency"][stage]["p50_ms"] for record in records])
            axes.barh(range(len(records)), lengths, 0.6, left=left, color=SERIES[place], label=stage, linewidth=0)
            left += lengths
        axes.set_yticks(range(len(records)), [short(record["label"]) for record in records])
        axes.set_ylim(len(records) - 0.5, -0.5)
        axes.grid(False, axis="y")
        axes.set_xlabel("ms, medians")
        figure.legend(loc="outside upper left", ncols=len(STAGES))

    return svg_plot("stages", "stages of a frame", draw, height_in=1.1 + 0.36 * len(records))


def accuracy_plot(records: Sequence[Record]) -> str:
    """Mask AP against the median latency; hollow where the figure is the reference's and not the bundle's own."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, record in enumerate(records):
            color = SERIES[place % len(SERIES)]
            own = record["accuracy"]["of"].startswith("this bundle")
            point = (record["latency"]["total"]["p50_ms"], record["accuracy"]["mask_ap"])
            face = color if own else "none"
            axes.plot(*point, "o", color=color, markerfacecolor=face, markersize=6, label=short(record["label"]))
        axes.margins(0.15)
        axes.set(xlabel="ms, median", ylabel="mask AP")
        figure.legend(loc="outside upper left", ncols=1)

    return svg_plot("accuracy", "mask AP against latency", draw, height_in=2.7 + 0.17 * len(records))


def streams_plot(records: Sequence[Record]) -> str:
    """Frames a second of all streams together."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, record in enumerate(records):
            numbers = [each["streams"] for each in record["streams"]]
            rates = [each["frames_per_s"] for each in record["streams"]]
            axes.plot(numbers, rates, "o-", color=SERIES[place % len(SERIES)], label=short(record["label"]))
        every = [each for record in records for each in record["streams"]]
        axes.set_xticks(range(1, max(each["streams"] for each in every) + 1))
        axes.set_ylim(0, 1.08 * max(each["frames_per_s"] for each in every))
        axes.set(xlabel="streams", ylabel="frames/s, all together")
        figure.legend(loc="outside upper left", ncols=1)

    return svg_plot("streams", "throughput over streams", draw, height_in=2.7 + 0.17 * len(records))


def timeline_plot(name: str, record: Record) -> str:
    """The latency over time: the median of each stretch, and its least to its most as a band."""
    at_s = np.asarray(record["times"]["at_s"])
    totals = np.asarray(record["times"]["stages_ms"]["total"])
    parts = np.array_split(np.arange(len(totals)), min(TIMELINE_STEPS, len(totals)))
    places = np.array([np.mean(at_s[part]) for part in parts])
    levels = np.array([np.percentile(totals[part], (0, 50, 100)) for part in parts])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.fill_between(places, levels[:, 0], levels[:, 2], color=SERIES[0], alpha=0.25, linewidth=0)
        axes.plot(places, levels[:, 1], color=SERIES[0], marker="o" if len(places) < 20 else None, markersize=3)
        _deadline(axes, record, vertical=False)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="s", ylabel="ms")

    return svg_plot(name, "latency over time", draw)


def sensor_plot(name: str, kind: str, record: Record) -> str:
    """All series of one kind over time."""
    sensors = record["sensors"]
    chosen = highest(kind, record)
    factor, unit = SCALES.get(kind, (1.0, KINDS[kind][1]))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, series in enumerate(chosen):
            points = zip(sensors["at_s"], sensors["series"][series], strict=True)
            at_s, values = zip(*((second, value) for second, value in points if value is not None), strict=True)
            color = SERIES[place % len(SERIES)]
            line = "-" if place < len(SERIES) else "--"
            axes.plot(at_s, np.multiply(values, factor), line, color=color, label=short(series.split(":", 1)[1]))
        if kind != "temperature":
            axes.set_ylim(bottom=0)
        axes.set(xlabel="s", ylabel=unit or KINDS[kind][0])
        figure.legend(loc="outside upper left", ncols=2)

    return svg_plot(name, f"{KINDS[kind][0]} over time", draw, height_in=2.6 + 0.09 * len(chosen))


def highest(kind: str, record: Record) -> list[str]:
    """The series of a kind; of very many those with the largest values."""
    sensors = record["sensors"]
    known = [series for series in sensors["series"] if series.split(":", 1)[0] == kind]
    ranked = sorted(known, key=lambda series: -sensors["summary"][series]["most"])
    return sorted(ranked[:MOST_SERIES], key=known.index)


def _deadline(axes: Any, record: Record, *, vertical: bool) -> None:
    if record["deadline"] is not None:
        line = axes.axvline if vertical else axes.axhline
        line(record["deadline"]["deadline_ms"], color=MUTED, linewidth=1, linestyle=":", zorder=0)
