"""The report in a real browser, light and dark, on a phone's width. Skipped where there is none.

RS4D_CHROMIUM may name the program.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from rs4d_edge.bench.report import write_report
from tests.bench.test_report import full_record

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
SCHEMES = {"dark": 0, "light": 1}  # of Blink's setting
PHONE = (500, 900)  # the narrowest window that headless Chromium opens
PROBE = """<script>
const box = element => { const r = element.getBoundingClientRect(); return [r.width, r.height]; };
const figures = [...document.querySelectorAll('figure')];
const plots = Object.fromEntries(figures.map(f => [f.id, box(f.querySelector('svg'))]));
const line = document.querySelector('#plot-timeline-1 path[style*="--series-1"]');
const found = {
  plots, page: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
  line: getComputedStyle(line).stroke, wide: document.documentElement.scrollWidth, window: innerWidth,
};
document.body.innerHTML = '<pre id="found"></pre>';
document.getElementById('found').textContent = JSON.stringify(found);
</script></body>"""


@pytest.fixture(scope="module")
def browser() -> str:
    pytest.importorskip("matplotlib")
    named = os.environ.get("RS4D_CHROMIUM")
    found = named or next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here")
    return found


@pytest.fixture(scope="module")
def seen(browser: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("browser")
    page = folder / "report.html"
    write_report(full_record(), page)
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    return {scheme: _look(browser, page, folder / scheme, setting) for scheme, setting in SCHEMES.items()}


def _look(browser: str, page: Path, profile: Path, setting: int) -> dict[str, Any]:
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    options += [f"--blink-settings=preferredColorScheme={setting}", f"--window-size={PHONE[0]},{PHONE[1]}"]
    done = subprocess.run([browser, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, check=False)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    seen: dict[str, Any] = json.loads(unescape(found[1]))
    return seen


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_plot_has_a_size_and_fits_a_phone(scheme: str, seen: dict[str, dict[str, Any]]) -> None:
    found = seen[scheme]
    assert {"plot-distribution", "plot-stages", "plot-accuracy", "plot-streams", "plot-timeline-1"} <= set(
        found["plots"]
    )
    assert all(width > 200 and height > 50 for width, height in found["plots"].values())
    assert found["wide"] <= found["window"]


def test_light_and_dark_have_colours_of_their_own(seen: dict[str, dict[str, Any]]) -> None:
    assert seen["light"]["page"] == "rgb(243, 245, 247)" and seen["dark"]["page"] == "rgb(13, 17, 23)"
    for what in ("ink", "line"):
        assert seen["light"][what] != seen["dark"][what]
