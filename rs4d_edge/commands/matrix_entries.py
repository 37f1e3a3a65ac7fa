"""Which forms of a model `rs4d-bench --matrix` compares: bundles that exist, or all that a model can be exported to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from rs4d_edge.bundle import Bundle, open_bundle
from rs4d_edge.commands.matrix_rows import Row
from rs4d_edge.errors import InputError
from rs4d_edge.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from rs4d_edge.commands.matrix_exports import Form, Source

MATRIX_THREADS = 2
MATRIX_RUNS = 48


@dataclass(frozen=True)
class MatrixRequest:
    """What the command line asked for; `sources` are bundles' folders, or one model."""

    sources: tuple[str, ...]
    data: Path | None = None
    images: Path | None = None
    calib: Path | None = None
    samples: int | None = None
    work: Path | None = None
    threads: int = MATRIX_THREADS
    runs: int = MATRIX_RUNS
    json_path: Path | None = None
    markdown_path: Path | None = None


@dataclass
class Entry:
    """A row, and its bundle once there is one."""

    row: Row
    bundle: Bundle | None = None


@contextmanager
def open_entries(request: MatrixRequest, console: Console) -> Iterator[Iterator[Entry]]:
    """Rows one after the other, each exported when it is asked for. Bundles made for them alone are removed after."""
    if all(Path(source).is_dir() or Path(source).name == MANIFEST_NAME for source in request.sources):
        yield _of_bundles(request)
        return
    if len(request.sources) > 1:
        wrong = next(source for source in request.sources if not Path(source).is_dir())
        raise InputError(f"--matrix takes one model or the folders of bundles; {wrong} is no folder")
    from rs4d_edge.commands.matrix_exports import open_source  # here: a device has no torch

    source = open_source(request.sources[0], request.calib, request.samples)
    if request.work is not None:
        yield _of_model(source, request.work, console)
        return
    with tempfile.TemporaryDirectory(prefix="rs4d-bench-") as folder:
        yield _of_model(source, Path(folder), console)


def _of_bundles(request: MatrixRequest) -> Iterator[Entry]:
    """One row each; InputError for options that only a model takes, and for bundles of several models."""
    given = {"--calib": request.calib, "--samples": request.samples, "--work": request.work}
    needless = [option for option, value in given.items() if value is not None]
    if needless:
        raise InputError(f"{', '.join(needless)}: only for --matrix with a model, which is exported; bundles are as is")
    bundles = [open_bundle(Path(source)) for source in request.sources]
    first = bundles[0].manifest
    for bundle in bundles[1:]:
        other = bundle.manifest
        if (other.weights.sha256, other.contract) != (first.weights.sha256, first.contract):
            raise InputError(
                f"{bundles[0].path} and {bundle.path} hold different models or inputs ({first.name}, {other.name}): "
                "a matrix compares the forms of one model"
            )
    for bundle in bundles:
        manifest = bundle.manifest
        same = f"{manifest.target} {manifest.precision}"
        name = bundle.path.resolve().name
        yield Entry(Row(f"{name} ({same})", manifest.target, manifest.precision), bundle)


def _of_model(source: Source, work: Path, console: Console) -> Iterator[Entry]:
    from rs4d_edge.commands.matrix_exports import forms

    for form in forms():
        calib = f" --calib {source.calib.name}" if form.precision.needs_frames else ""
        row = Row(form.name, form.target.value, form.precision.value, options=form.options + calib)
        out = work / f"{source.weights.stem}-{form.target.value}-{form.precision.value}"
        row.refused = _made(source, form, out, console)
        yield Entry(row, None if row.refused else open_bundle(out))


def _made(source: Source, form: Form, out: Path, console: Console) -> str | None:
    """Export unless the same is there already. None, or why it was refused."""
    from rs4d_edge.commands.matrix_exports import export, why_outdated

    if out.exists():
        reason = why_outdated(out, source, form)
        if reason is None:
            created = open_bundle(out).manifest.created
            console.print(f"{form.name}: as in {escape(str(out))} since {created:%Y-%m-%d %H:%M} UTC", soft_wrap=True)
            return None
        console.print(f"{form.name}: exported anew, because {escape(reason)}", soft_wrap=True)
    with console.status(f"{form.name}: exporting"):
        refused = export(source, form, out)
    if refused is None:
        console.print(f"{form.name}: exported")
    return refused


def model_bytes(bundle: Bundle) -> int:
    """What the runtime reads: every file of the bundle except the golden frames."""
    golden = {path for frame in bundle.manifest.golden for path in (frame.image, frame.detections)}
    return sum(file.size for file in bundle.manifest.files if file.path not in golden)
