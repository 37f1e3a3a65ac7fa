"""How a command ends: what every `main` of a typer application shares."""

from __future__ import annotations

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
