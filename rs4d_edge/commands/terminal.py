"""How a command ends: what every `main` of a typer application shares, and how a signal ends a long one."""

from __future__ import annotations

import signal
from collections.abc import Callable

import typer
from rich.console import Console
from rich.markup import escape

from rs4d_edge.errors import RS4DError


def run_app(app: typer.Typer) -> None:
    """Run a command; a deliberate error ends it with its message on standard error and status 1."""
    try:
        app()
    except RS4DError as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error


def stop_on_signals(stop: Callable[[], None], console: Console) -> None:
    """The first Ctrl-C or SIGTERM calls `stop`, which lets a run save and end after its step; the second kills it."""

    def handle(number: int, _: object) -> None:
        console.print("stopping after this step; the run can be continued with --resume")
        stop()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
