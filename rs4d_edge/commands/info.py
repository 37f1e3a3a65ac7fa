"""`rs4d-info`: what the models cost, which come with weights, what is in a checkpoint, and what a target is.

`--target` works on a device; the rest imports the reference model, and so torch, when it is asked for.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from rs4d_edge.commands.info_target import show_target
from rs4d_edge.commands.terminal import run_app
from rs4d_edge.errors import InputError, RuntimeUnavailable

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def info(
    source: Annotated[
        str | None, typer.Argument(help="A checkpoint file, a shipped model or a preset; without it, a table of all")
    ] = None,
    shipped: Annotated[bool, typer.Option("--shipped", help="List the models with weights, the default first")] = False,
    target: Annotated[
        str | None,
        typer.Option("--target", help="Show a target of rs4d-export, as in jetson-orin-nano; needs no torch"),
    ] = None,
) -> None:
    """Show sizes and costs of the models, what is in a checkpoint, or what a target has and takes."""
    if (source is not None) + shipped + (target is not None) > 1:
        raise InputError("a model, --shipped and --target are shown one at a time: give one of them")
    if target is not None:
        show_target(target, console)
    else:
        _show_models(source, shipped)


def _show_models(source: str | None, shipped: bool) -> None:
    try:
        from rs4d_edge.commands import info_models
    except ModuleNotFoundError as error:
        raise RuntimeUnavailable(
            f"models are read with the package {error.name}, which is not installed: run "
            'pip install "rs4d-edge[export]"; rs4d-info --target works without it'
        ) from error
    if shipped:
        info_models.show_shipped()
    elif source is not None:
        info_models.show_model(source, console)
    else:
        info_models.show_presets(console)


def main() -> None:
    """Run the command; a deliberate error ends it with its message and status 1."""
    run_app(app)


if __name__ == "__main__":
    main()
