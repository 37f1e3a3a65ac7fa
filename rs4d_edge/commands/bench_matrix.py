"""`rs4d-bench --matrix`: the forms of one model beside each other, in accuracy, time, size and memory.

The forms are bundles that exist, which needs nothing but a runtime and the package that evaluates, or a model, of which
`matrix_exports` makes all that there are. What cannot be made or run here is a row that says why.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from rs4d_edge.commands.matrix_entries import Entry, MatrixRequest, model_bytes, open_entries
from rs4d_edge.commands.matrix_measuring import (
    WARM_UP_ROUNDS,
    EvaluationData,
    evaluate_bundle,
    open_data,
    time_in_turns,
)
from rs4d_edge.commands.matrix_rows import records
from rs4d_edge.commands.matrix_tables import conditions, markdown, matrix_table, notes
from rs4d_edge.commands.peak_memory import peak_memory
from rs4d_edge.errors import DataError, InputError, RS4DError
from rs4d_edge.machine import machine_record
from rs4d_edge.whole_file import write_json, write_text

MEMORY_FRAMES = 3


def run_matrix(request: MatrixRequest, console: Console) -> None:
    """Measure, print, and write what was asked for. Nothing long begins before all that was given is checked."""
    for option, path in (("--json", request.json_path), ("--markdown", request.markdown_path)):
        if path is not None and path.is_dir():
            raise InputError(f"{option} {path} is a folder: name a file")
    data = open_data(request.data, request.images)
    machine = machine_record(("onnxruntime", "openvino", "nncf"))
    entries = []
    with open_entries(request, console) as pending:
        for entry in pending:
            entries.append(entry)
            _measure_alone(entry, data, request.threads, console)
        _measure_in_turns(entries, data, request, console)
    record = _record(request, data, entries, machine)
    console.print(matrix_table(record))
    for note in notes(record["rows"]):
        console.print(escape(note), soft_wrap=True)
    console.print(escape(conditions(record)), soft_wrap=True)
    if request.json_path is not None:
        write_json(record, request.json_path)
        console.print(f"figures: {escape(str(request.json_path))}", soft_wrap=True)
    if request.markdown_path is not None:
        write_text(markdown(record), request.markdown_path)
        console.print(f"table: {escape(str(request.markdown_path))}", soft_wrap=True)


def _measure_alone(entry: Entry, data: EvaluationData, threads: int, console: Console) -> None:
    """Everything but the times. Data that does not fit the model ends the command: it fits none of the others."""
    row, bundle = entry.row, entry.bundle
    if bundle is not None:
        manifest = bundle.manifest
        row.exported = manifest.created.isoformat(timespec="seconds")
        row.model_bytes = model_bytes(bundle)
        try:
            with console.status(f"{escape(row.what)}: evaluating") as status:
                row.figures = evaluate_bundle(
                    bundle.path,
                    data,
                    threads,
                    lambda done, total: status.update(f"{escape(row.what)}: evaluating, {done} of {total}"),
                )
        except DataError:
            raise
        except RS4DError as error:
            row.refused = str(error)
    if row.refused is not None or bundle is None or row.figures is None:
        console.print(f"{escape(row.what)}: [yellow]refused[/yellow], {escape(str(row.refused))}", soft_wrap=True)
        return
    memory = peak_memory(bundle.path, threads, data.frames[:MEMORY_FRAMES])
    row.peak_bytes, row.before_bytes, row.peak_absent = memory
    console.print(f"{escape(row.what)}: mask AP {row.figures['segm']['AP']:.3f}", soft_wrap=True)


def _measure_in_turns(entries: Sequence[Entry], data: EvaluationData, request: MatrixRequest, console: Console) -> None:
    # All targets at once and not one after the other, or the ratio between them would tell of the machine's load.
    runnable = {
        str(place): entry.bundle.path
        for place, entry in enumerate(entries)
        if entry.bundle is not None and entry.row.refused is None
    }
    if not runnable:
        return
    try:
        with console.status(f"{len(runnable)} forms in turns, {request.runs} runs each"):
            times = time_in_turns(runnable, data.frames, request.threads, request.runs)
    except RS4DError as error:  # what was measured so far took long: it is shown all the same
        console.print(f"[yellow]no times:[/yellow] {escape(str(error))}", soft_wrap=True)
        return
    for place, taken in times.items():
        entries[int(place)].row.times_ms = taken


def _record(
    request: MatrixRequest, data: EvaluationData, entries: Sequence[Entry], machine: dict[str, Any]
) -> dict[str, Any]:
    names = [entry.bundle.manifest.name for entry in entries if entry.bundle is not None]
    return {
        "command": shlex.join(["rs4d-bench", *sys.argv[1:]]),
        "model": names[0] if names else request.sources[0],
        "data": str(data.annotations),
        "images": data.images,
        "calib": None if request.calib is None else str(request.calib),
        "threads": request.threads,
        "runs": request.runs,
        "warm_up": WARM_UP_ROUNDS,
        "frames": len(data.frames),
        "machine": machine,
        "rows": records([entry.row for entry in entries]),
    }
