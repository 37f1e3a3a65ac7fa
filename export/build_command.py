"""`rs4d-export build`: on the device, from a bundle to the engine that runs on this device alone. Needs no torch."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from rs4d_edge.bundle import open_bundle
from rs4d_edge.commands.terminal import run_app
from rs4d_edge.errors import InputError
from rs4d_edge.runtimes.tensorrt_device_build import BuiltEngine, build_on_device
from rs4d_edge.runtimes.tensorrt_progress import BuildProgress

app = typer.Typer(add_completion=False)
console = Console()
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LINE_EVERY_S = 10.0


@app.command()
def build(
    bundle: Annotated[Path, typer.Argument(help="A bundle of rs4d-export --target jetson or rtx")],
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            metavar="SIZE",
            help="What TensorRT may take for trying kernels, as in 1500M or 2G; default: 60 % of what is free",
        ),
    ] = None,
    if_needed: Annotated[
        bool, typer.Option("--if-needed", help="Do nothing if an engine for this machine is there")
    ] = False,
    library: Annotated[
        str | None,
        typer.Option(metavar="tensorrt|tensorrt_rtx", help="What builds it; default: the first that is installed"),
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option("--compute-capability", help="For any GPU of this kind instead of the one here (tensorrt_rtx)"),
    ] = None,
) -> None:
    """Build the engine of BUNDLE for this machine's GPU and keep it in BUNDLE/engines."""
    cap = _bytes(max_memory) if max_memory is not None else None
    signal.signal(signal.SIGTERM, _leave)  # as systemd ends what takes too long; the build cleans up behind it
    with ShownProgress() as shown:
        built = build_on_device(
            open_bundle(bundle),
            library=library,
            compute_capability=compute_capability,
            max_memory_bytes=cap,
            if_needed=if_needed,
            tell=shown,
        )
    show(built, bundle)


class ShownProgress:
    """A bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._live = console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
            console=console,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._next_line_s = 0.0

    def __enter__(self) -> ShownProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, progress: BuildProgress) -> None:
        """The build goes on."""
        if self._live:
            if self._task is None:
                self._task = self._bar.add_task("", total=1.0)
            left = f", about {progress.left_s:.0f} s left" if progress.left_s is not None else ""
            words = escape(f"{progress.phase}: {progress.step} of {progress.steps}{left}")
            self._bar.update(self._task, description=words, completed=progress.done)
        elif progress.elapsed_s >= self._next_line_s:
            self._next_line_s = progress.elapsed_s + _LINE_EVERY_S
            console.print(str(progress), markup=False, highlight=False, soft_wrap=True)


def show(built: BuiltEngine, bundle: Path) -> None:
    """Print what there is now."""
    record = built.record
    table = Table(show_header=False)
    table.add_row("engine", escape(str(built.folder / record.engine)))
    table.add_row("", "built now" if built.new else "was there, and is for this machine")
    table.add_row("for", escape(str(record.host)))
    memory = f", {record.activations_bytes / 1e6:.0f} MB of activations" if record.activations_bytes else ""
    table.add_row("size", f"{record.size_bytes / 1e6:.1f} MB{memory}")
    if record.build_s is not None:
        table.add_row("build", f"{record.build_s:.1f} s")
    if record.plugins:
        table.add_row("plugins", escape(", ".join(record.plugins)))
    console.print(table)
    console.print(f"check it: rs4d-verify {bundle}", markup=False, highlight=False, soft_wrap=True)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size < 1 << 20:
        raise InputError(f"--max-memory {text!r} must be a size of at least 1M, as in 1500M or 2G")
    return size


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Run the command; a deliberate error ends it with its message and status 1."""
    run_app(app)


if __name__ == "__main__":
    main()
