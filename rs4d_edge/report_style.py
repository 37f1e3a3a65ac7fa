"""The frame and style sheet of a report's page: light and dark, one column on a phone, two where there is room.

A page needs nothing but itself: no network, no other file. The variables are those that `report_svg` draws with. On
its background, text has a contrast of at least 4.5 (3.5 on the cells of the confusion matrix) and a curve or bar one of
at least 3, by the formula of WCAG 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Literal

STYLE_SHEET = """\
:root {
  --page: #f3f5f7; --paper: #ffffff; --ink: #1b2128; --muted: #57606a; --line: #d5dbe1; --link: #0757b8;
  --good: #0f5c26; --bad: #9c3206;
  --series-1: #0b63ce; --series-2: #c2570c; --series-3: #1a7f37; --series-4: #8250df;
  --series-5: #cf222e; --series-6: #0a7d8c; --series-7: #bf3989; --series-8: #7d6200;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0d1117; --paper: #161b22; --ink: #e6edf3; --muted: #9aa4af; --line: #343b44; --link: #6cb2ff;
    --good: #3fb950; --bad: #f0883e;
    --series-1: #58a6ff; --series-2: #f0883e; --series-3: #3fb950; --series-4: #bc8cff;
    --series-5: #ff7b72; --series-6: #39c5cf; --series-7: #f778ba; --series-8: #d4b106;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.45 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 12px; }
h1 { font-size: 1.5rem; margin: 8px 4px 12px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 24px 4px 8px; }
p { margin: 8px 4px; }
a { color: var(--link); }
.note { color: var(--muted); }
.card, .tiles div { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(116px, 1fr)); gap: 8px; margin: 0 0 12px; }
.tiles div { padding: 8px 10px; }
.tiles dt { color: var(--muted); font-size: 0.8rem; line-height: 1.25; }
.tiles dd { margin: 2px 0 0; font-size: 1.1rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.columns { columns: 2 420px; column-gap: 12px; }
.card { margin: 0 0 12px; padding: 10px; break-inside: avoid; }
.scroll { overflow-x: auto; }
figcaption { color: var(--muted); font-size: 0.9rem; margin-bottom: 6px; }
svg { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 0 5px 6px; text-align: right; border-top: 1px solid var(--line); white-space: nowrap; }
thead th { border-top: 0; color: var(--muted); font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child { padding-left: 0; text-align: left; font-weight: 500; }
.wrap th, .wrap td { white-space: normal; overflow-wrap: anywhere; }
.words th, .words td { text-align: left; }
"""
TableKind = Literal["", "wrap", "wrap words"]


def html_page(title: str, body: Iterable[str]) -> str:
    """A whole page of the blocks `body`, which are HTML; empty ones are left out. `title` is plain text."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE_SHEET}</style></head>\n"
        "<body><main>\n" + "\n".join(filter(None, body)) + "\n</main></body></html>\n"
    )


def figure(name: str, svg: str, caption: str) -> str:
    """A plot with its caption, which is plain text; its id is `plot-NAME`."""
    return (
        f'<figure class="card" id="plot-{name}"><figcaption>{escape(caption)}</figcaption>'
        f'<div class="scroll">{svg}</div></figure>'
    )


def columns(figures: Iterable[str]) -> str:
    """Plots and tables in as many columns as there is room for."""
    return '<div class="columns">\n' + "\n".join(figures) + "\n</div>"


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """The few figures that a reader looks for first: each with its label, both plain text."""
    items = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in values)
    return f'<dl class="tiles">{items}</dl>'


def table(name: str, heads: Iterable[str], rows: Iterable[Sequence[str]], *, kind: TableKind = "") -> str:
    """A table of plain text with the id `table-NAME`; a row's first cell is its heading.

    `kind` breaks long cells into lines: `wrap` of figures, `wrap words` of sentences, which begin at the left.
    """
    shape = f' class="{kind}"' if kind else ""
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heads)
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for first, *cells in rows
    ]
    return (
        f'<div class="card scroll"><table id="table-{name}"{shape}><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
