"""The plots of a run's report, as SVG to be set into a page: text stays text, colours are the page's variables."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from rs4d_edge.training.run_metrics import Confusion, Evaluation, TrainRecord

# matplotlib knows no CSS, so each variable of the page has a colour that stands for it until the SVG is written.
VARIABLES = ("ink", "muted", "line", "paper", "good", "bad", *(f"series-{number}" for number in range(1, 9)))
STAND_INS = {name: f"#0001{place:02x}" for place, name in enumerate(VARIABLES)}
VARIABLE_OF = {color: name for name, color in STAND_INS.items()}
INK, MUTED, LINE, PAPER, GOOD, BAD, *SERIES = STAND_INS.values()
MASK_COLOR, BOX_COLOR = SERIES[:2]

WIDTH_IN = 4.2  # a phone shows it at about 1.2 pixels a point
HEIGHT_IN = 2.7
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.2,
}
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
EXACT = {"lr"}  # a schedule, without noise to smooth
MAYBE_LOG = {"loss", "norm"}
LOG_FROM_RATIO = 20  # of the largest value to the smallest; below it a linear axis from 0 tells more
SMOOTH_FROM = 80  # points; fewer are drawn as they are
SMOOTH_SHARE = 30  # the running mean takes in this part of all points
LONGEST_NAME = 24  # letters of a class's name; the table has the whole
STRONG_SHARE = 0.65  # from this share on a cell's count is written in the colour of the paper


def loss_plot(records: Sequence[TrainRecord]) -> str:
    """The losses' sum and its parts over steps."""
    names = list(dict.fromkeys(name for record in records for name in record.losses))
    curves = {name: [record.losses.get(name, np.nan) for record in records] for name in names}
    return _steps_plot("loss", "loss", records, curves)


def number_plot(name: str, label: str, records: Sequence[TrainRecord]) -> str:
    """One number of the records over steps: `lr`, `norm`, `images_per_s`; `waiting` in percent."""
    return _steps_plot(name, label, records, {label: [float(getattr(record, name)) for record in records]})


def precision_plot(evaluations: Sequence[Evaluation], best_step: int) -> str:
    """AP and AP50 of masks and boxes over steps, with a line where the best weights were kept."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        steps = [each.step for each in evaluations]
        for kind, word, color in (("segm", "mask", MASK_COLOR), ("bbox", "box", BOX_COLOR)):
            for measure, line in (("AP", "-"), ("AP50", "--")):
                values = [getattr(getattr(each, kind), measure) for each in evaluations]
                heights = [np.nan if value is None else value for value in values]
                axes.plot(steps, heights, line, color=color, marker="o", markersize=3.5, label=f"{word} {measure}")
        axes.axvline(best_step, color=MUTED, linewidth=1, linestyle=":", zorder=0)
        axes.set_ylim(0, 1.02)
        _over_steps(axes)
        figure.legend(loc="outside upper left", ncols=2)

    return _svg("precision", "mask and box AP and AP50 over steps", draw)


def classes_plot(evaluation: Evaluation) -> str:
    """AP, and behind it AP50, of each class: one bar for masks, one for boxes."""
    names = list(dict.fromkeys([*evaluation.segm.per_class, *evaluation.bbox.per_class]))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        kinds = ((evaluation.segm, "mask", MASK_COLOR, -0.2), (evaluation.bbox, "box", BOX_COLOR, 0.2))
        for figures, word, color, offset in kinds:
            places = np.arange(len(names)) + offset
            known = [figures.per_class.get(name) for name in names]
            for measure, alpha, level in (("AP", 1.0, 3), ("AP50", 0.35, 2)):  # AP never exceeds AP50, and lies upon it
                lengths = [(each and getattr(each, measure)) or 0.0 for each in known]
                label = f"{word} {measure}"
                axes.barh(places, lengths, 0.36, color=color, alpha=alpha, linewidth=0, zorder=level, label=label)
        axes.set_yticks(range(len(names)), _short(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 1.02)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside upper left", ncols=2)

    return _svg("classes", "AP and AP50 of each class", draw, height_in=0.9 + 0.34 * max(len(names), 1))


def confusion_plot(confusion: Confusion) -> str:
    """Counts, coloured by their share of the objects of the row; false alarms by their share of the column."""
    counts = np.asarray(confusion.matrix, dtype=np.int64)
    side = len(counts)
    names = [*_short(confusion.classes), "missed", "background"]
    whole = np.repeat(counts.sum(axis=1, keepdims=True), side, axis=1)
    whole[-1] = counts.sum(axis=0)
    shares = counts / np.maximum(whole, 1)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, column in np.argwhere(counts > 0).tolist():
            share = float(shares[row, column])
            color = GOOD if row == column else BAD
            cell = Rectangle((column - 0.5, row - 0.5), 1, 1, color=color, alpha=cell_opacity(share), linewidth=0)
            axes.add_patch(cell)
            ink = PAPER if share >= STRONG_SHARE else INK
            axes.text(column, row, f"{counts[row, column]}", color=ink, ha="center", va="center", fontsize=8.5)
        axes.set_xticks(range(side), names[:-1], rotation=90)
        axes.set_yticks(range(side), [*names[:-2], names[-1]])
        axes.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5), aspect="equal", xlabel="found as", ylabel="truth")
        axes.set_xticks(np.arange(side + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(side + 1) - 0.5, minor=True)
        axes.grid(False)
        axes.grid(True, which="minor")
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)

    cell_in = max(0.26, 0.05 + 0.075 * len(str(counts.max())))
    needed_in = 0.4 + 0.085 * max(map(len, names)) + cell_in * side
    return _svg("confusion", "confusion matrix", draw, width_in=max(WIDTH_IN, needed_in), height_in=needed_in)


def cell_opacity(share: float) -> float:
    """How strong a cell's colour is; a single count among many still shows."""
    return 0.12 + 0.88 * share


def _short(names: Sequence[str]) -> list[str]:
    return [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in names]


def _steps_plot(name: str, label: str, records: Sequence[TrainRecord], curves: Mapping[str, Sequence[float]]) -> str:
    steps = [record.step for record in records]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (curve, values) in enumerate(curves.items()):
            color = INK if curve == "loss" else SERIES[place % len(SERIES)]
            _curve(axes, steps, np.asarray(values, dtype=np.float64), color, curve, smooth=name not in EXACT)
        _scale(axes, np.array([value for values in curves.values() for value in values]), log=name in MAYBE_LOG)
        if name == "waiting":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
            axes.set_ylim(0, max(axes.get_ylim()[1], 0.05))
        _over_steps(axes)
        if len(curves) > 1:
            figure.legend(loc="outside upper left", ncols=3)

    return _svg(name, f"{label} over steps", draw)


def _curve(
    axes: Axes, steps: Sequence[int], values: NDArray[np.float64], color: str, label: str, *, smooth: bool
) -> None:
    """A line; of many points, if `smooth`, their running mean, and the points faintly behind it."""
    marker = "o" if len(values) < SMOOTH_FROM / 4 else None
    if smooth and len(values) >= SMOOTH_FROM:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        window = np.ones(2 * (len(values) // SMOOTH_SHARE // 2) + 1)
        valid = np.isfinite(values)
        weights = np.convolve(valid, window, mode="same")
        means = np.convolve(np.where(valid, values, 0.0), window, mode="same") / np.maximum(weights, 1)
        values = np.where(valid, means, np.nan)
    axes.plot(steps, values, color=color, marker=marker, markersize=3, label=label)


def _scale(axes: Axes, values: NDArray[np.float64], *, log: bool) -> None:
    finite = values[np.isfinite(values)]
    if log and finite.size and finite.min() > 0 and finite.max() > LOG_FROM_RATIO * finite.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if finite.max() < 300 * finite.min() else (1.0,)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=min(0.0, float(finite.min())) if finite.size else 0.0)


def _over_steps(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("step")


def _svg(
    name: str,
    title: str,
    draw: Callable[[Figure], None],
    *,
    width_in: float = WIDTH_IN,
    height_in: float = HEIGHT_IN,
) -> str:
    """Draws and gives the `<svg>` element alone, its ids told apart from those of other plots of the page."""
    with rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the reader's fonts draw the text
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata=NO_METADATA)
    text = stream.getvalue()
    wide = f' style="min-width: {width_in * 72 * 1.1:.0f}px"' if width_in > WIDTH_IN else ""
    opening = f'<svg role="img" aria-label="{title}"{wide}'
    text = re.sub(r'^<svg [^>]*width="[^"]*" height="[^"]*"', opening, text[text.index("<svg") :])
    return re.sub("<[^>]+>", lambda tag: _for_page(tag[0], name), text)


def _for_page(tag: str, name: str) -> str:
    """A tag of the SVG (never its text) with its ids made the plot's own, the page's font, and the page's colours."""
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    return re.sub("|".join(STAND_INS.values()), lambda color: f"var(--{VARIABLE_OF[color[0]]})", tag)
