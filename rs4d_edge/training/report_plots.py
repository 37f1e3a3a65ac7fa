"""The plots of a training run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from rs4d_edge.report_svg import BAD, GOOD, INK, MUTED, PAPER, SERIES, WIDTH_IN, svg_plot
from rs4d_edge.training.run_metrics import Confusion, Evaluation, TrainRecord

MASK_COLOR, BOX_COLOR = SERIES[:2]
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

    return svg_plot("precision", "mask and box AP and AP50 over steps", draw)


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

    return svg_plot("classes", "AP and AP50 of each class", draw, height_in=0.9 + 0.34 * max(len(names), 1))


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
    return svg_plot("confusion", "confusion matrix", draw, width_in=max(WIDTH_IN, needed_in), height_in=needed_in)


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

    return svg_plot(name, f"{label} over steps", draw)


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
