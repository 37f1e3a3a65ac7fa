"""The plots of a sensitivity report, in the style of a training run's: noise by layer, and accuracy against latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from rs4d_edge.export.sensitivity import LayerSensitivity
from rs4d_edge.quantization_record import AccuracyRecord, AccuracyStep
from rs4d_edge.report_svg import GOOD, INK, MUTED, SERIES, WIDTH_IN, svg_plot

_LONGEST_NAME = 44
_ROW_IN = 0.19


class TimedStep(NamedTuple):
    """A step of the search whose latency is known, and its number in the picture and the table below it."""

    number: int
    step: AccuracyStep
    ratio: float


def noise_plot(layers: Sequence[LayerSensitivity]) -> str:
    """The three ratios of each layer, in the order of computation, from top to bottom."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        places = np.arange(len(layers))
        for label, color, marker, values in (
            ("weights", SERIES[1], "s", [layer.weights_db for layer in layers]),
            ("input alone", SERIES[2], "^", [layer.input_db for layer in layers]),
            ("result", SERIES[0], "o", [layer.result_db for layer in layers]),
        ):
            heights = [np.nan if value is None else value for value in values]
            line = "-" if label == "result" else "none"
            axes.plot(heights, places, marker=marker, linestyle=line, color=color, markersize=3.5, label=label)
        axes.set_yticks(places, [short_name(layer.name) for layer in layers])
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.set_xlabel("signal to noise, dB")
        figure.legend(loc="outside upper left", ncols=3)

    height_in = 0.9 + _ROW_IN * max(len(layers), 4)
    return svg_plot("noise", "signal to noise of each layer", draw, width_in=1.6 * WIDTH_IN, height_in=height_in)


def latency_plot(accuracy: AccuracyRecord) -> str:
    """Mask AP against time over that of fp32: a point for each step that was timed, and a line for the goal."""
    timed = timed_steps(accuracy)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        search = timed[1:]
        axes.plot(
            [each.ratio for each in search],
            [each.step.mask_ap for each in search],
            color=SERIES[0],
            linewidth=0.8,
            alpha=0.5,
        )
        for each in timed:
            color = GOOD if each.step.mask_ap >= accuracy.float_ap - accuracy.max_drop else SERIES[0]
            axes.plot([each.ratio], [each.step.mask_ap], marker="o", markersize=6, color=color)
            axes.annotate(
                str(each.number), (each.ratio, each.step.mask_ap), (5, 4), textcoords="offset points", color=INK
            )
        axes.axhline(accuracy.float_ap - accuracy.max_drop, color=MUTED, linewidth=1, linestyle=":", zorder=0)
        axes.margins(x=0.12, y=0.18)
        axes.set(xlabel="time of a run, fp32 = 1", ylabel="mask AP")

    return svg_plot("latency", "mask AP against latency", draw)


def timed_steps(accuracy: AccuracyRecord) -> list[TimedStep]:
    """The steps whose latency was measured: first all layers in high precision, then none, then more and more."""
    known = [(step, step.latency_ratio) for step in accuracy.steps if step.latency_ratio is not None]
    return [TimedStep(number, step, ratio) for number, (step, ratio) in enumerate(known, start=1)]


def short_name(name: str) -> str:
    """A layer's name without its beginning where it is too long for a label."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
