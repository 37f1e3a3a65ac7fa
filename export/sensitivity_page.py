"""The sensitivity report as files: one HTML page with its plots inside, and the same as JSON beside it."""

from __future__ import annotations

import uuid
from html import escape
from pathlib import Path

from rs4d_edge.errors import InputError
from rs4d_edge.export.sensitivity import WORST, LayerSensitivity, SensitivityReport
from rs4d_edge.export.sensitivity_plots import latency_plot, noise_plot, timed_steps
from rs4d_edge.quantization_record import AccuracyRecord
from rs4d_edge.report_style import columns, figure, html_page

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
    contents = {page: _page(report), page.with_suffix(".json"): report.model_dump_json(indent=2) + "\n"}
    partials = {path: path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial") for path in contents}
    try:
        for path, content in contents.items():
            partials[path].write_text(content, encoding="utf-8")
        for path, partial in partials.items():
            partial.replace(path)
    except OSError as error:
        raise InputError(f"the report {page} cannot be written: {error.strerror or error}; name another") from error
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
    return page, page.with_suffix(".json")


def _page(report: SensitivityReport) -> str:
    title = f"{report.model}: {report.precision} for {report.target}"
    noise = figure("noise", noise_plot(report.layers), _NOISE)
    body = [f"<h1>{escape(title)}</h1>", _tiles(report), *_search(report.accuracy), "<h2>Layers</h2>", noise]
    return html_page(f"{title}, sensitivity", [*body, _layer_note(report), _layer_table(report)])


def _tiles(report: SensitivityReport) -> str:
    tiles = [("int8 layers", str(len(report.layers))), (f"frames of {report.source}", str(report.frames))]
    if report.float_ap is not None and report.plain_ap is not None:
        tiles += [("mask AP without int8", f"{report.float_ap:.4f}"), ("all layers int8", f"{report.plain_ap:.4f}")]
    if report.accuracy is not None:
        tiles.append(("chosen layers int8", f"{report.accuracy.int8_ap:.4f}"))
    if report.images is not None:
        tiles.append(("images for mask AP", str(report.images)))
    items = "".join(f"<div><dt>{escape(label)}</dt><dd>{value}</dd></div>" for label, value in tiles)
    return f'<dl class="tiles">{items}</dl>'


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
    return _table("layers", ["layer", "place", "result", "input alone", "weights", "AP effect"], rows)


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
            columns([figure("latency", latency_plot(accuracy), _LATENCY), _table("steps", heads, rows, wrap=True)])
        )
    return blocks


def _table(name: str, heads: list[str], rows: list[list[str]], *, wrap: bool = False) -> str:
    """A row's first cell is its heading, which is broken into lines if `wrap`."""
    style = ' style="white-space: normal; overflow-wrap: anywhere"' if wrap else ""
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    lines = [
        f'<tr><th scope="row"{style}>{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in rows
    ]
    return (
        f'<div class="card scroll"><table id="table-{name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _effect(layer: LayerSensitivity) -> str:
    return "-" if layer.ap_effect is None else f"{layer.ap_effect:+.4f}"
