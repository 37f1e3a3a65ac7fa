"""The sensitivity report as files: one HTML page with its plots inside, and the same as JSON beside it."""

from __future__ import annotations

from html import escape
from pathlib import Path

from rs4d_edge.export.sensitivity import WORST, LayerSensitivity, SensitivityReport
from rs4d_edge.export.sensitivity_plots import latency_plot, noise_plot, timed_steps
from rs4d_edge.quantization_record import AccuracyRecord
from rs4d_edge.report_style import columns, figure, html_page, table, tiles
from rs4d_edge.whole_file import write_text

_NOISE = (
    "Signal to quantization noise, in the order of computation: the more, the better. Weights: the rounding of the "
    "layer's weights. Input alone: the rounding of its input. Result: the layer's output against the float model's, "
    "with all rounding ahead of it."
)
_LATENCY = (
    "Mask AP against the time of a run over that of the fp32 model, each a median of runs by turns. Numbers are steps "
    "of the table. The dotted line is the lowest AP that the goal allows; points that reach it have another colour."
)


def write_report(report: SensitivityReport, page: Path) -> tuple[Path, Path]:
    """Write `page`, which ends in .html, and the same with .json; answers with both paths.

    The page needs nothing but itself: no network, no other file. InputError where it cannot be written.
    """
    write_text(_page(report), page)
    write_text(report.model_dump_json(indent=2) + "\n", page.with_suffix(".json"))
    return page, page.with_suffix(".json")


def _page(report: SensitivityReport) -> str:
    title = f"{report.model}: {report.precision} for {report.target}"
    noise = figure("noise", noise_plot(report.layers), _NOISE)
    body = [f"<h1>{escape(title)}</h1>", _tiles(report), *_search(report.accuracy), "<h2>Layers</h2>", noise]
    return html_page(f"{title}, sensitivity", [*body, _layer_note(report), _layer_table(report)])


def _tiles(report: SensitivityReport) -> str:
    values = [("int8 layers", str(len(report.layers))), (f"frames of {report.source}", str(report.frames))]
    if report.float_ap is not None and report.plain_ap is not None:
        values += [("mask AP without int8", f"{report.float_ap:.4f}"), ("all layers int8", f"{report.plain_ap:.4f}")]
    if report.accuracy is not None:
        values.append(("chosen layers int8", f"{report.accuracy.int8_ap:.4f}"))
    if report.images is not None:
        values.append(("images for mask AP", str(report.images)))
    return tiles(values)


def _layer_note(report: SensitivityReport) -> str:
    paired = [layer.paired for layer in report.layers if layer.paired is not None]
    texts = ["The layer with the noisiest result first; figures are dB, their place is that in the computation."]
    if paired:
        texts.append(
            f"Layers behind the proposals are compared on boxes that both models proposed, {min(paired):.0%} of them."
        )
    if report.plain_ap is None:
        texts.append("AP effects were not measured: that needs --val.")
    else:
        texts.append(
            f"AP effect, for the first {WORST}: mask AP with the layer, and those that share a tensor with it, in high "
            "precision, less that of all layers in int8."
        )
    return f'<p class="note">{escape(" ".join(texts))}</p>'


def _layer_table(report: SensitivityReport) -> str:
    places = {layer.name: place for place, layer in enumerate(report.layers, start=1)}
    rows = [
        [layer.name, str(places[layer.name]), *map(_db, (layer.result_db, layer.input_db, layer.weights_db))]
        + [_effect(layer)]
        for layer in report.by_result()
    ]
    return table("layers", ["layer", "place", "result", "input alone", "weights", "AP effect"], rows)


def _search(accuracy: AccuracyRecord | None) -> list[str]:
    """The picture of the accuracy-aware search and its steps; nothing without one."""
    if accuracy is None:
        return []
    timed = timed_steps(accuracy)
    rows = [
        [f"{number}. {step.why}", f"{step.mask_ap:.4f}", f"{ratio:.2f}", str(len(step.restored))]
        for number, step, ratio in timed
    ]
    heads = ["step", "mask AP", "time", "layers restored"]
    met = "reached" if accuracy.met else "not reached"
    text = f"Goal: at most {accuracy.max_drop:g} below the {accuracy.float_ap:.4f} without int8; {met}."
    blocks = ["<h2>Accuracy and latency</h2>", f'<p class="note">{escape(text)}</p>']
    if timed:
        blocks.append(
            columns([figure("latency", latency_plot(accuracy), _LATENCY), table("steps", heads, rows, kind="wrap")])
        )
    return blocks


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _effect(layer: LayerSensitivity) -> str:
    return "-" if layer.ap_effect is None else f"{layer.ap_effect:+.4f}"
