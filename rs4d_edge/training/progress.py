"""What a user sees of a run, and what stays of it: a live line with loss parts, and metrics.jsonl."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from rs4d_edge.whole_file import write_text


class RunLog:
    """Shows progress on the console and appends records to `metrics.jsonl`, one JSON object a line.

    Loss parts are averaged between two records.
    """

    def __init__(self, path: Path, console: Console, interval_steps: int = 20) -> None:
        self.path = path
        self.console = console
        self.interval_steps = interval_steps
        self._sums: dict[str, float] = defaultdict(float)
        self._steps = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>5.1f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            refresh_per_second=1,
        )
        self._task = self._bar.add_task("training", total=1.0, numbers="")

    def __enter__(self) -> RunLog:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, step: int, progress: float, losses: Mapping[str, float], numbers: Mapping[str, float]) -> None:
        """Counts one step; every `interval_steps` the means are shown and written."""
        for name, value in losses.items():
            self._sums[name] += value
        self._steps += 1
        if (step + 1) % self.interval_steps:
            return
        means = {name: total / self._steps for name, total in self._sums.items()}
        shown = " ".join(f"{name} {value:.3f}" for name, value in means.items())
        extra = " ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self._bar.update(self._task, completed=progress, numbers=f"step {step + 1} {shown} | {extra}")
        if not self.console.is_terminal:
            self.console.print(f"{100 * progress:5.1f} % step {step + 1} {shown} | {extra}", soft_wrap=True)
        self.write({"kind": "train", "step": step + 1, "progress": round(progress, 5), **means, **numbers})
        self._sums.clear()
        self._steps = 0

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one record to the file."""
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, allow_nan=True) + "\n")

    def note(self, text: str) -> None:
        """One line above the progress bar."""
        self.console.print(text, soft_wrap=True)


def forget_after(path: Path, step: int) -> None:
    """Drops the records of steps after `step`, which a resumed run does again, and a line that a kill cut short."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            if json.loads(line).get("step", 0) <= step:
                kept.append(line + "\n")
    write_text("".join(kept), path)
