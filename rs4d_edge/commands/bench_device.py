"""`rs4d-bench BUNDLE... --duration`: what bundles, and peers after them, take here in time, memory, heat and power."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from rs4d_edge.bench.accuracy import add_accuracy
from rs4d_edge.bench.comparing import read_record
from rs4d_edge.bench.every_source import open_sources
from rs4d_edge.bench.identity import device_record
from rs4d_edge.bench.measuring import Plan, bundle_record
from rs4d_edge.bench.nvml import Nvml
from rs4d_edge.bench.report import require_plots, write_report
from rs4d_edge.bench.sources import Source
from rs4d_edge.bundle import open_bundle
from rs4d_edge.commands.bench_frame import frame_for
from rs4d_edge.commands.bench_one import failure_of, measure_one
from rs4d_edge.commands.bench_peers import find_peers
from rs4d_edge.commands.bench_tables import peers_table
from rs4d_edge.errors import InputError, RuntimeFailure
from rs4d_edge.predictor import Predictor
from rs4d_edge.whole_file import write_json

DURATION_S = 60.0
SHORTEST_SOAK_S = 120.0
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class DeviceRequest:
    """What the command line asked for; `sources` are bundles' folders, `peers` the words of --peer."""

    sources: tuple[Path, ...]
    peers: tuple[str, ...] = ()
    duration: str | None = None
    soak: str | None = None
    streams: int | None = None
    deadline_ms: float | None = None
    threads: int | None = None
    runtime: str | None = None
    frame: Path | None = None
    accuracy: tuple[Path, ...] = ()
    json_path: Path | None = None
    report: Path | None = None

    def plan(self) -> Plan:
        """How to measure. `InputError` for times that cannot be."""
        if self.soak is not None and self.duration is not None:
            raise InputError("--duration and --soak each say how long to measure: give one of them")
        if self.soak is None:
            seconds = DURATION_S if self.duration is None else seconds_of(self.duration, "--duration")
        else:
            seconds = seconds_of(self.soak, "--soak")
            if seconds < SHORTEST_SOAK_S:
                raise InputError(f"--soak {self.soak} is too short to compare minutes: expected at least 2m")
        return Plan(seconds, self.soak is not None, self.streams, self.deadline_ms, self.threads)


def seconds_of(text: str, option: str) -> float:
    """Seconds of `90`, `90s`, `1.5m` or `1h`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds <= 0:
        raise InputError(f"{option} {text} is not a time above 0: expected seconds, or as in 90s, 30m, 2h")
    return seconds


def run_device(request: DeviceRequest, console: Console) -> None:
    """Measure, print, and write what was asked for. Nothing long begins before all that was given is checked.

    A peer that fails while it is measured is told at the end, as `RuntimeFailure`, when all else has been written.
    """
    plan = request.plan()
    if request.peers and plan.soak:
        raise InputError("--peer is not for --soak, which judges bundles alone: measure peers with --duration")
    check_outputs(request.json_path, request.report)
    bundles = [open_bundle(source) for source in request.sources]
    frames = [frame_for(bundle, request.frame) for bundle in bundles]
    engines = [request.runtime or bundle.manifest.runtime for bundle in bundles]
    records = [
        bundle_record(bundle, engine, plan.threads, frame)
        for bundle, engine, frame in zip(bundles, engines, frames, strict=True)
    ]
    _name_apart(records)
    add_accuracy(records, request.accuracy)
    peers = find_peers(request.peers, bundles, frames, plan.threads)
    for peer in peers:
        peer.record["over_bundle"] = {"label": records[peer.place]["label"]}
    with open_sources() as sources:
        measure = partial(measure_one, plan, sources, console)
        packages = [*engines, *(package for peer in peers for package in peer.packages)]
        machine = device_record(dict.fromkeys(packages), _gpus(sources))
        openers = [partial(Predictor, bundle.path, runtime=request.runtime, threads=plan.threads) for bundle in bundles]
        for record, opener, frame in zip(records, openers, frames, strict=True):
            measure(record, opener, frame)
        failed = {}
        for peer in peers:
            label, frame = peer.record["label"], frames[peer.place]
            why = failure_of(partial(measure, peer.record, peer.opener, frame, beside=openers[peer.place]))
            if why is not None:
                failed[label] = why
    beside = [peer.record for peer in peers if peer.record["label"] not in failed]
    if beside:
        console.print(peers_table(records, beside))
    asked = {"seconds": plan.seconds, "soak": plan.soak, "streams": plan.streams, "deadline_ms": plan.deadline_ms}
    command = shlex.join(["rs4d-bench", *sys.argv[1:]])
    _write(
        {"command": command, "asked": asked, "machine": machine, "bundles": records, "peers": beside}, request, console
    )
    if failed:
        raise RuntimeFailure("; ".join(f"{label} was not measured: {why}" for label, why in failed.items()))


def show_record(request: DeviceRequest, console: Console) -> None:
    """Make the page of a record that was written before, perhaps on another machine."""
    check_outputs(request.json_path, request.report)
    if request.peers or request.report is None or len(request.sources) > 1:
        raise InputError("a record instead of bundles is for one page: rs4d-bench RECORD.json --report PAGE.html")
    record = read_record(request.sources[0])
    if any("sensors" not in each for each in record["bundles"]):
        raise InputError(f"{request.sources[0]} was measured by --runs: a page needs what --duration measures")
    add_accuracy(record["bundles"], request.accuracy)
    _write(record, request, console)


def check_outputs(json_path: Path | None, report: Path | None) -> None:
    """Raise `InputError` for what cannot be written, `RuntimeUnavailable` for a page that cannot be drawn."""
    for option, path in (("--json", json_path), ("--report", report)):
        if path is not None and path.is_dir():
            raise InputError(f"{option} {path} is a folder: name a file")
    if report is not None:
        require_plots()


def _write(record: dict[str, Any], request: DeviceRequest, console: Console) -> None:
    if request.json_path is not None:
        write_json(record, request.json_path)
        console.print(f"figures: {escape(str(request.json_path))}", soft_wrap=True)
    if request.report is not None:
        write_report(record, request.report)
        console.print(f"report: {escape(str(request.report))}", soft_wrap=True)


def _name_apart(records: Sequence[dict[str, Any]]) -> None:
    """Bundles of one name, as `a/bundle` and `b/bundle`, get their paths as labels."""
    labels = [record["label"] for record in records]
    for record in records:
        if labels.count(record["label"]) > 1:
            record["label"] = record["bundle"]
    if len({record["label"] for record in records}) < len(records):
        raise InputError("a bundle was named twice: name each once")


def _gpus(sources: Sequence[Source]) -> list[str]:
    nvml = [source for source in sources if isinstance(source, Nvml)]
    return [f"{gpu}, driver {source.driver}" for source in nvml for gpu in source.gpus]
