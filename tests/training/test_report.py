from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rs4d_edge.errors import DataError
from rs4d_edge.report_style import STYLE_SHEET
from rs4d_edge.report_svg import STAND_INS, VARIABLES
from rs4d_edge.training.report import write_report
from rs4d_edge.training.report_plots import STRONG_SHARE, cell_opacity
from rs4d_edge.training.run_state import STATE_NAME
from tests.training.test_run_metrics import train

TRAINING_PLOTS = {"plot-loss", "plot-lr", "plot-norm", "plot-images_per_s", "plot-waiting"}
ACCURACY_PLOTS = {"plot-precision", "plot-classes", "plot-confusion"}
VOID = {"meta", "br", "img", "link", "input", "hr"}
STRANGE = '<b>"&"</b> $x$'


class Page(HTMLParser):
    """A page taken apart: ids, text by the plot or table that it stands in, and whether tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.ids: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.words: dict[str, list[str]] = {}
        self._open: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            inherited = self._open[-1][1] if self._open else ""
            self._open.append((tag, dict(attrs).get("id") or inherited if tag in {"figure", "table"} else inherited))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids.update(value or "" for name, value in attrs if name == "id")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.words.setdefault(self._open[-1][1], []).append(data.strip())


def val(step: int, ap: float, name: str = "ship") -> dict[str, Any]:
    def part(value: float) -> dict[str, Any]:
        classes = {name: {"AP": value, "AP50": value + 0.25}, "bridge": {"AP": None, "AP50": None}}
        return {"AP": value, "AP50": value + 0.25, "per_class": classes}

    matrix = [[31, 17, 5], [0, 0, 0], [13, 211, 0]]
    confusion = {"classes": [name, "bridge"], "matrix": matrix, "score_threshold": 0.3, "iou_threshold": 0.5}
    figures = {"bbox": part(ap + 0.125), "segm": part(ap), "confusion": confusion}
    return {"kind": "val", "step": step, "elapsed_s": 9.0, "images": 23, "detections": 272, **figures}


def page(folder: Path, *records: dict[str, Any], tail: str = "") -> Page:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    path = write_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_it_shows_every_plot_once(tmp_path: Path) -> None:
    shown = page(tmp_path, train(20), val(30, 0.125), train(40), val(40, 0.5), train(60), val(60, 0.25))
    assert TRAINING_PLOTS | ACCURACY_PLOTS | {"table-classes"} <= set(shown.ids)
    assert max(shown.ids.values()) == 1
    assert shown.tags["svg"] == len(TRAINING_PLOTS | ACCURACY_PLOTS)
    assert {"loss", "mask", "step"} <= set(shown.words["plot-loss"])
    assert {"mask AP", "mask AP50", "box AP", "box AP50"} <= set(shown.words["plot-precision"])


def test_figures_are_those_of_the_best_evaluation(tmp_path: Path) -> None:
    shown = page(tmp_path, val(30, 0.125), val(40, 0.5), val(60, 0.25))
    assert shown.words["table-classes"][6:] == [
        *("ship", "53", "0.500", "0.750", "0.625", "0.875"),
        *("bridge", "0", "-", "-", "-", "-"),
    ]
    counts = {word for word in shown.words["plot-confusion"] if word.isdigit()}
    assert counts == {"31", "17", "5", "13", "211"}  # and no zeros
    assert {"ship", "bridge", "missed", "background"} <= set(shown.words["plot-confusion"])
    assert "23 images. The dotted line is step 40" in shown.text


def test_a_cell_s_colour_follows_its_share(tmp_path: Path) -> None:
    """Row ship: 31, 17 and 5 of 53; the column of false bridges: 211 of 228."""
    shown = page(tmp_path, val(40, 0.5))
    plot = shown.text[shown.text.index('id="plot-confusion"') :]
    cells = re.findall(r'style="fill: var\(--(good|bad)\); opacity: ([\d.]+)', plot)
    expected = [("good", 31 / 53), ("bad", 17 / 53), ("bad", 5 / 53), ("bad", 13 / 44), ("bad", 211 / 228)]
    assert [color for color, _ in cells] == [color for color, _ in expected]
    assert [float(opacity) for _, opacity in cells] == pytest.approx([cell_opacity(s) for _, s in expected], abs=1e-3)


def test_bars_are_as_long_as_their_figures(tmp_path: Path) -> None:
    shown = page(tmp_path, val(40, 0.5))
    plot = shown.text[shown.text.index('id="plot-classes"') : shown.text.index('id="table-classes"')]
    bars = re.findall(
        r'd="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" clip-path="[^"]*" style="fill: var\(--series-([12])', plot
    )
    lengths = {(series, round(float(end) - float(start), 2)) for start, end, series in bars}
    scale = max(length for _, length in lengths) / 0.875
    assert {(series, round(length / scale, 3)) for series, length in lengths if length} == {
        *(("1", 0.5), ("1", 0.75)),
        *(("2", 0.625), ("2", 0.875)),
    }


def test_a_killed_run_has_a_page_of_what_is_there(tmp_path: Path) -> None:
    shown = page(tmp_path, train(20), train(40), tail=json.dumps(val(40, 0.5))[:200])
    assert set(shown.ids) >= TRAINING_PLOTS
    assert not set(shown.ids) & ACCURACY_PLOTS
    assert "has not been evaluated" in shown.text
    assert "left out: 1 " in shown.text
    assert "40" in shown.words[""]


def test_evaluations_alone_have_a_page(tmp_path: Path) -> None:
    older = {key: value for key, value in val(5, 0.5).items() if key != "confusion"}
    shown = page(tmp_path, older)
    assert set(shown.ids) & (TRAINING_PLOTS | ACCURACY_PLOTS) == {"plot-precision", "plot-classes"}
    assert "No training record" in shown.text
    assert "objects" not in shown.words["table-classes"]


def test_numbers_that_are_none_leave_gaps(tmp_path: Path) -> None:
    """Enough records for running means; the one without a number stays a gap, and all without one are no fault."""
    numbers = [
        {**train(20 * n), "loss": float("nan") if n == 50 else 1 / n, "norm": float("inf")} for n in range(1, 101)
    ]
    shown = page(tmp_path, *numbers)
    plot = shown.text[shown.text.index('id="plot-loss"') : shown.text.index('id="plot-lr"')]
    curves = [path for path in re.findall(r'd="([^"]*)"[^>]*stroke: var\(--ink\)', plot) if path.count("L") > 50]
    assert len(curves) == 2  # as they are, and their mean
    assert all(path.count("M") == 2 for path in curves)
    assert "nan" not in plot


def test_a_run_too_short_for_a_record_has_a_page(tmp_path: Path) -> None:
    (tmp_path / STATE_NAME).touch()
    assert "No training record" in write_report(tmp_path).read_text()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rs4d-train"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_are_text_and_not_markup(tmp_path: Path) -> None:
    folder = tmp_path / "run <b>&amp;"
    folder.mkdir()
    shown = page(folder, val(40, 0.5, name=STRANGE))
    assert shown.tags["b"] == 0
    for place in ("table-classes", "plot-classes", "plot-confusion"):
        assert STRANGE in shown.words[place], place
    assert shown.words[""].count("run <b>&amp;") == 1


@pytest.mark.filterwarnings("error")  # matplotlib warns where labels leave no room for a plot
def test_a_long_name_is_whole_in_the_table_and_cut_in_the_plots(tmp_path: Path) -> None:
    name = "water_treatment_plant_under_construction"
    shown = page(tmp_path, val(40, 0.5, name=name))
    assert name in shown.words["table-classes"]
    for plot in ("plot-classes", "plot-confusion"):
        assert "water_treatment_plant_u…" in shown.words[plot]


def test_it_needs_nothing_but_itself_and_comes_out_the_same_again(tmp_path: Path) -> None:
    records = (train(20), val(30, 0.125), train(40))
    first = page(tmp_path, *records)
    assert page(tmp_path, *records).text == first.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "report.html"]
    addresses = {value for name, value in first.attributes if "//" in value and not name.startswith("xmlns")}
    assert addresses == set()
    assert "url(http" not in first.text
    assert not {"script", "link", "img", "iframe"} & set(first.tags)
    links = [value for name, value in first.attributes if name.endswith("href")]
    links += re.findall(r"url\(([^)]*)\)", first.text)
    assert links
    assert {link.removeprefix("#") for link in links} <= set(first.ids)


def test_all_colours_are_the_page_s(tmp_path: Path) -> None:
    shown = page(tmp_path, train(20), val(30, 0.125), train(40))
    plots = "".join(re.findall(r"<svg.*?</svg>", shown.text, re.DOTALL))
    assert set(re.findall(r"var\(--([\w-]+)\)", plots)) <= set(VARIABLES)
    assert not any(stand_in in shown.text for stand_in in STAND_INS.values())
    styles = re.findall(r'style="([^"]*)"', plots)
    assert [style for style in styles if "#" in style.replace("url(#", "")] == []
    texts = re.findall(r"<text style=\"([^\"]*)\"", plots)
    assert texts
    assert all("fill: var(" in style for style in texts)


def themes() -> dict[str, dict[str, NDArray[np.float64]]]:
    """The variables of the light and the dark page, as linear RGB."""

    def linear(color: str) -> NDArray[np.float64]:
        values = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)

    light, dark = STYLE_SHEET.split("@media (prefers-color-scheme: dark)")
    found = {"light": light, "dark": dark}
    return {
        theme: {name: linear(color) for name, color in re.findall(r"--([\w-]+): (#[0-9a-f]{6});", text)}
        for theme, text in found.items()
    }


def contrast(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Of two colours in linear RGB, by WCAG 2."""
    low, high = sorted(float(color @ [0.2126, 0.7152, 0.0722]) for color in (first, second))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_can_be_told_from_its_background(theme: str) -> None:
    colors = themes()[theme]
    assert set(VARIABLES) <= set(colors)
    for text in ("ink", "muted", "link"):
        for background in ("page", "paper"):
            assert contrast(colors[text], colors[background]) >= 4.5, text
    for mark in (name for name in VARIABLES if name.startswith("series") or name in {"good", "bad"}):
        assert contrast(colors[mark], colors["paper"]) >= 3, mark


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_counts_can_be_read_on_every_cell(theme: str) -> None:
    colors = themes()[theme]

    def encoded(color: NDArray[np.float64]) -> NDArray[np.float64]:  # browsers blend sRGB as it is encoded
        return np.where(color <= 0.0031308, color * 12.92, 1.055 * color ** (1 / 2.4) - 0.055)

    for mark in ("good", "bad"):
        for share in np.linspace(0, 1, 101):
            opacity = cell_opacity(float(share))
            blend = opacity * encoded(colors[mark]) + (1 - opacity) * encoded(colors["paper"])
            cell = np.where(blend <= 0.04045, blend / 12.92, ((blend + 0.055) / 1.055) ** 2.4)
            ink = colors["paper" if share >= STRONG_SHARE else "ink"]
            assert contrast(ink, cell) >= 3.5, (mark, share)
