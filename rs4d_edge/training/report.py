"""The page that shows how a training run went: one HTML file beside the weights, with its plots inside."""

from __future__ import annotations

import math
import statistics
from html import escape
from pathlib import Path

from rs4d_edge.report_style import columns, figure, html_page
from rs4d_edge.training.card import CARD_NAME
from rs4d_edge.training.report_plots import classes_plot, confusion_plot, loss_plot, number_plot, precision_plot
from rs4d_edge.training.run_metrics import Confusion, Evaluation, KindFigures, Precision, RunMetrics, read_metrics
from rs4d_edge.training.run_state import STATE_NAME
from rs4d_edge.training.trainer import METRICS_NAME
from rs4d_edge.whole_file import write_text

REPORT_NAME = "report.html"
NUMBERS = (  # field of a training record, label, what the plot shows
    ("lr", "learning rate", "Learning rate, the highest of all groups of parameters."),
    ("norm", "gradient norm", "Norm of the gradient before it is clipped, in the step of each record."),
    ("images_per_s", "images/s", "Images a second, waiting for data included, in the step of each record."),
    ("waiting", "share of waiting", "Share of the time spent waiting for data, in the step of each record."),
)


def write_report(folder: Path) -> Path:
    """Writes `report.html` into a run's folder from its `metrics.jsonl`, and returns its path.

    `rs4d-train` calls it at the end of a run. It may be called at any time: while the run goes on, after a kill, or for
    a run of long ago; in Python, with the run's folder in place of `runs/mine`:

        from pathlib import Path
        from rs4d_edge.training.report import write_report
        write_report(Path("runs/mine"))

    The page needs nothing but itself: no network, no other file. It shows what there is; a run without evaluations has
    no accuracy to show. `DataError`: the folder holds no run.
    """
    begun = (folder / STATE_NAME).exists() and not (folder / METRICS_NAME).exists()  # too short to leave a record
    metrics = RunMetrics() if begun else read_metrics(folder / METRICS_NAME)
    name = folder.resolve().name
    card = f'<p><a href="{CARD_NAME}">Model card</a>: data and settings.</p>' if (folder / CARD_NAME).exists() else ""
    body = [f"<h1>{escape(name)}</h1>", *_summary(metrics), card, *_accuracy(metrics), *_training(metrics)]
    page = html_page(f"{name}: training", body)
    path = folder / REPORT_NAME
    write_text(page, path)
    return path


def _summary(metrics: RunMetrics) -> list[str]:
    tiles = [("last recorded step", f"{metrics.last_step:,}")]
    if metrics.train:
        for name, label, text in (
            ("images_per_s", "images/s, median", "{:.3g}"),
            ("waiting", "waiting for data", "{:.1%}"),
        ):
            values = [value for record in metrics.train if math.isfinite(value := getattr(record, name))]
            if values:
                middle = statistics.median(values) if name == "images_per_s" else statistics.fmean(values)
                tiles.append((label, text.format(middle)))
    best = metrics.best
    if best is not None:
        tiles.append(("best step", f"{best.step:,}"))
        tiles += [
            (f"{word} {measure}", _number(getattr(figures, measure)))
            for word, figures in (("mask", best.segm), ("box", best.bbox))
            for measure in ("AP", "AP50")
        ]
    items = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in tiles)
    lines = [f'<dl class="tiles">{items}</dl>']
    if metrics.unreadable:
        cut = "a run that is killed while it writes leaves its last line cut short"
        lines.append(f'<p class="note">Unreadable lines of {METRICS_NAME}, left out: {metrics.unreadable} ({cut}).</p>')
    return lines


def _training(metrics: RunMetrics) -> list[str]:
    records = metrics.train
    if not records:
        return [
            "<h2>Training</h2>",
            '<p class="note">No training record: the run has just begun, or was too short for one.</p>',
        ]
    sizes = sorted({round(record.size) for record in records if math.isfinite(record.size)})
    seen = f" Input sizes: {', '.join(map(str, sizes))} px." if sizes else ""
    figures = [figure("loss", loss_plot(records), f"Loss and its parts, means since the record before.{seen}")]
    figures += [figure(name, number_plot(name, label, records), caption) for name, label, caption in NUMBERS]
    return ["<h2>Training</h2>", columns(figures)]


def _accuracy(metrics: RunMetrics) -> list[str]:
    best = metrics.best
    if best is None:
        return ["<h2>Accuracy</h2>", '<p class="note">The run has not been evaluated.</p>']
    images = "" if best.images is None else f" of {best.images} images"
    caption = f"Average precision{images}. The dotted line is step {best.step:,}, the highest mask AP."
    figures = [figure("precision", precision_plot(metrics.evaluations, best.step), caption)]
    if best.segm.per_class or best.bbox.per_class:
        caption = f"Each class at step {best.step:,}: AP, and in the lighter colour AP50."
        figures.append(figure("classes", classes_plot(best), caption))
        figures.append(_class_table(best))
    if best.confusion is not None:
        figures.append(figure("confusion", confusion_plot(best.confusion), _confusion_caption(best.confusion, best)))
    return ["<h2>Accuracy</h2>", columns(figures)]


def _confusion_caption(confusion: Confusion, evaluation: Evaluation) -> str:
    return (
        f"Confusion at step {evaluation.step:,}: detections with a score of at least {confusion.score_threshold:g}, "
        f"matched to objects by boxes with an IoU of at least {confusion.iou_threshold:g}. A row is what there was, a "
        "column what it was found as; the last column counts objects that were missed, the last row false alarms, "
        "second boxes on an object included. "
        "The stronger the colour, the larger the share of the row (of the column for false alarms)."
    )


def _class_table(evaluation: Evaluation) -> str:
    kinds: tuple[KindFigures, ...] = (evaluation.segm, evaluation.bbox)
    names = dict.fromkeys(name for kind in kinds for name in kind.per_class)
    confusion = evaluation.confusion
    objects = dict(zip(confusion.classes, map(sum, confusion.matrix), strict=False)) if confusion else {}
    heads = ["class", *(["objects"] if objects else []), "mask AP", "mask AP50", "box AP", "box AP50"]
    rows = []
    for name in names:
        cells = [str(objects.get(name, "-"))] if objects else []
        for kind in kinds:
            figures = kind.per_class.get(name, Precision())
            cells += [_number(figures.AP), _number(figures.AP50)]
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        )
    head = "".join(f'<th scope="col">{each}</th>' for each in heads)
    return (
        f'<div class="card scroll"><table id="table-classes"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _number(value: float | None) -> str:
    """Three decimals; a dash where there was nothing to find."""
    return "-" if value is None else f"{value:.3f}"
