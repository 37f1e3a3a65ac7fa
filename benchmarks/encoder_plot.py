"""Time and memory of the encoders against the number of tokens, from the record of `benchmarks.encoder`.

`python -m benchmarks.encoder_plot RECORD.json PLOT.png` draws an older record again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

_LINES = {  # name, precision left out: label, colour, marker
    "rs4d openvino": ("RS4D base, OpenVINO", "tab:blue", "o"),
    "rs4d onnxruntime": ("RS4D base, ONNX Runtime", "tab:green", "s"),
    "sam openvino": ("SAM ViT-B, OpenVINO", "tab:red", "^"),
}
_STYLES = {"fp32": "-", "bf16": "--"}


def draw(record: dict[str, Any], path: Path) -> None:
    """Two panels side by side, both axes logarithmic."""
    matplotlib.use("Agg")
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    sizes = record["sizes"]
    for name in sorted({name for each in sizes for name in each["times"]}):
        kind, precision = name.rsplit(" ", 1)
        if kind not in _LINES:
            continue
        seconds = [(each["tokens"], each["times"][name]["median_ms"] / 1e3) for each in sizes if name in each["times"]]
        gigabytes = [
            (each["tokens"], weighed["peak_bytes"] / 1e9) for each in sizes if (weighed := each["memory"].get(name))
        ]
        _line(time_axes, kind, precision, seconds)
        _line(memory_axes, kind, precision, gigabytes)
    _finish(time_axes, sizes, "seconds an image")
    _finish(memory_axes, sizes, "peak memory of the process, GB")
    machine = record["machine"]["processor"]
    by_heads = [str(each["size"]) for each in sizes if each["sam_attention"] == "one head at a time"]
    remark = f"; SAM at {', '.join(by_heads)} px one head at a time" if by_heads else ""
    figure.suptitle(f"Encoders alone, {machine}, {record['threads']} threads{remark}", fontsize=10)
    figure.savefig(path, dpi=140)


def _line(axes: Axes, kind: str, precision: str, points: list[tuple[int, float]]) -> None:
    label, colour, marker = _LINES[kind]
    tokens, values = [x for x, _ in points], [y for _, y in points]
    axes.plot(tokens, values, color=colour, marker=marker, linestyle=_STYLES[precision], label=f"{label} {precision}")


def _finish(axes: Axes, sizes: list[dict[str, Any]], quantity: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([each["tokens"] for each in sizes], [f"{each['tokens']}\n{each['size']} px" for each in sizes])
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
    axes.set_xlabel("tokens")
    axes.set_ylabel(quantity)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)


def main() -> None:
    """Draw the record that the first argument names into the file that the second names."""
    record, plot = sys.argv[1:]
    draw(json.loads(Path(record).read_text(encoding="utf-8")), Path(plot))


if __name__ == "__main__":
    main()
