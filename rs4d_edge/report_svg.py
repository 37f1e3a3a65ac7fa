"""Plots as SVG to be set into a report's page: text stays text, colours are the page's variables.

matplotlib is imported when the first plot is drawn, so that a device without it can import this.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib knows no CSS, so each variable of the page has a colour that stands for it until the SVG is written.
VARIABLES = ("ink", "muted", "line", "paper", "good", "bad", *(f"series-{number}" for number in range(1, 9)))
STAND_INS = {name: f"#0001{place:02x}" for place, name in enumerate(VARIABLES)}
VARIABLE_OF = {color: name for name, color in STAND_INS.items()}
INK, MUTED, LINE, PAPER, GOOD, BAD, *SERIES = STAND_INS.values()

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


def svg_plot(
    name: str,
    title: str,
    draw: Callable[[Figure], None],
    *,
    width_in: float = WIDTH_IN,
    height_in: float = HEIGHT_IN,
) -> str:
    """Draws and gives the `<svg>` element alone, its ids told apart from those of other plots of the page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

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
