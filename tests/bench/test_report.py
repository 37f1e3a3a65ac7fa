from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rs4d_edge.bench.accuracy import MEASURED, REFERENCE
from rs4d_edge.bench.report import require_plots, write_report
from rs4d_edge.errors import InputError, RuntimeUnavailable
from tests.bench.stand_ins import bundle_of, digest, peer_of, record_of

VOID = {"meta"}
STRANGE = "_<b>&\"a' $x$"


class Page(HTMLParser):
    """The ids of a page, its addresses, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [
            value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "srcset", "data"}
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def full_record() -> dict[str, Any]:
    """Two bundles with all that a report can show."""
    accuracy = {"mask_ap": 0.41, "box_ap": 0.5, "of": REFERENCE, "data": "val.json"}
    streams = [{"streams": number, "frames_per_s": 40.0 + number} for number in (1, 2)]
    soak: dict[str, Any] = {
        "minutes": [digest(1, 20.0), digest(2, 21.0, None)],
        "soak": {"minutes": 2, "verdict": "latency held, memory held"},
    }
    first = bundle_of("a", accuracy=accuracy, streams=streams, joules_per_frame={"VDD_IN": 0.25}, **soak)
    own = {**accuracy, "of": MEASURED, "mask_ap": 0.43}
    return record_of(
        first, bundle_of(STRANGE, 1.5, accuracy=own, warm_up={"runs": 200, "steady": False}), packages={"a": "1"}
    )


def page_of(record: dict[str, Any], tmp_path: Path) -> tuple[Page, str]:
    pytest.importorskip("matplotlib")
    write_report(record, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    return Page(text), text


def test_all_plots_and_tables_are_there_once(tmp_path: Path) -> None:
    page, _ = page_of(full_record(), tmp_path)
    shared = {f"plot-{name}" for name in ("distribution", "stages", "accuracy", "streams")} | {"table-bundles"}
    each = {f"{name}-{place}" for name in ("plot-timeline", "plot-memory", "plot-temperature") for place in (1, 2)}
    tables = {f"table-{name}-{place}" for name in ("latency", "sensors", "absent") for place in (1, 2)}
    expected = shared | each | tables | {"table-minutes-1", "table-machine"}
    assert {name for name in page.ids if name.startswith(("plot-", "table-"))} == expected
    assert len(page.ids) == len(set(page.ids))
    words = set(page.words)
    assert {"0.410", "0.430", "0.25 (VDD_IN)", "latency held, memory held", STRANGE, STRANGE.lstrip("_")} <= words
    assert "not available here (RAPL: no counter)" in words
    assert any("without having become steady" in word for word in words)


def test_it_needs_nothing_but_itself(tmp_path: Path) -> None:
    page, text = page_of(full_record(), tmp_path)
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"<script|<link|<img|@import|https?://(?!www\.w3\.org/)|url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    drawn = re.findall(r"#[0-9a-f]{6}\b", text.split("</style></head>", 1)[1])
    assert drawn == []  # all colours of the plots are variables, which light and dark set


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    bare = bundle_of(jitter_ms=None, deadline=None)
    bare["sensors"] = {"at_s": [0.0], "series": {}, "summary": {}, "absent": {"memory": ["psutil: not installed"]}}
    page, text = page_of(record_of(bare), tmp_path)
    plots = {name for name in page.ids if name.startswith("plot-")}
    assert plots == {"plot-distribution", "plot-stages", "plot-timeline-1"}
    assert "psutil: not installed" in text


def test_peers_stand_beside_the_bundles(tmp_path: Path) -> None:
    page, text = page_of(record_of(bundle_of(), peers=[peer_of(scale=100.0)]), tmp_path)
    assert {"plot-timeline-2", "table-latency-2"} <= set(page.ids)
    assert {"peer: other", "Another network. Weights: random.", "2 (1.5 to 2.5) of bundle"} <= set(page.words)
    assert {"SHA-256 of bundle's manifest", "SHA-256 of peer: other's file"} <= set(page.words)
    distribution = text[text.index('id="plot-distribution"') : text.index('id="plot-stages"')]
    assert ">100<" in distribution and ">1000<" in distribution  # far apart: a logarithmic axis, of plain numbers


def test_few_or_equal_runs_can_be_drawn(tmp_path: Path) -> None:
    one = bundle_of(runs=1)
    assert page_of(record_of(one), tmp_path)[0].ids


def test_a_missing_package_is_told_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RuntimeUnavailable, match="pip install matplotlib"):
        require_plots()


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_report(full_record(), tmp_path / "file" / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_of_very_many_sensors_the_hottest_are_drawn(tmp_path: Path) -> None:
    record = bundle_of()
    series = {f"temperature:core {number}": [float(number)] * 3 for number in range(40)}
    spread = {name: {"mean": 1.0, "least": 1.0, "most": values[0], "growth": 0.0} for name, values in series.items()}
    record["sensors"] |= {"series": series, "summary": spread}
    page, text = page_of(record_of(record), tmp_path)
    assert "Temperature over time, the 12 highest of 40." in page.words
    plot = text[text.index('id="plot-temperature-1"') : text.index('id="table-latency-1"')]
    assert "core 28<" in plot and "core 27<" not in plot
