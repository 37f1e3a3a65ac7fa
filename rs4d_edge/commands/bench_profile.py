"""`rs4d-bench --profile`: where in the network the time goes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from rich.console import Console

from rs4d_edge.bundle import Bundle
from rs4d_edge.commands.bench_latency import WARM_UP_RUNS, measure
from rs4d_edge.commands.bench_tables import moves_table, share_table
from rs4d_edge.frames import Frame
from rs4d_edge.layer_times import (
    HOLDERS,
    LARGE_BYTES,
    NodeTime,
    ProfiledRuntime,
    by_group,
    by_kind,
    large_moves,
    middle_mean,
    placed_by_order,
)
from rs4d_edge.predictor import Predictor

PROFILERS = {
    "openvino": "rs4d_edge.runtimes.openvino_profile",
    "onnxruntime": "rs4d_edge.runtimes.onnxruntime_profile",
}


class ProfilerModule(Protocol):
    """What a module named in `PROFILERS` offers."""

    def open_profiled(self, model_path: Path, *, threads: int | None, precision: str) -> ProfiledRuntime:
        """Load the model so that the time of every node is kept."""
        ...


def profile_bundle(bundle: Bundle, engine: str, threads: int | None, runs: int, frame: Frame) -> dict[str, Any]:
    """The same frame path over a runtime that times its nodes; means over the middle half of the runs."""
    module = cast(ProfilerModule, importlib.import_module(PROFILERS[engine]))
    manifest = bundle.manifest
    runtime = module.open_profiled(bundle.model_path, threads=threads, precision=manifest.precision)
    with Predictor.over(runtime, manifest.contract) as predictor:
        latency = measure(predictor, frame, runs)
        nodes = middle_mean(runtime.finish()[WARM_UP_RUNS:])
    infer_ms = sorted(latency.runs["infer_ms"])[runs // 4 : runs - runs // 4]
    inner = any(node.outer for node in nodes)
    return {"infer_ms": float(np.mean(infer_ms)), "times_inner_nodes": inner, **_shares(nodes)}


def _shares(nodes: list[NodeTime]) -> dict[str, Any]:
    return {
        "nodes_ms": sum(node.ms for node in nodes),
        "placed_by_order": placed_by_order(nodes),
        "groups": [share._asdict() for share in by_group(nodes)],
        "kinds": [share._asdict() for share in by_kind(nodes)],
        "large_moves": [move._asdict() for move in large_moves(nodes)],
    }


def show_profile(profile: dict[str, Any], console: Console) -> None:
    """Print layer groups, operator kinds and what is moved, with what the figures are."""
    between_ms = profile["infer_ms"] - profile["nodes_ms"]
    groups = [*profile["groups"], {"label": "between the nodes", "ms": between_ms, "nodes": 0}]
    console.print(share_table("Layer groups, in the order of computation", groups, profile["infer_ms"]))
    console.print(share_table("Operator kinds", profile["kinds"], profile["infer_ms"], most=15))
    console.print(moves_table(profile["large_moves"], LARGE_BYTES))
    console.print(
        f"Means over the middle half of the runs; with every node timed the network took {profile['infer_ms']:.2f} ms. "
        f"{profile['placed_by_order']:.0%} of the time is in nodes whose names tell no module: they are counted where "
        "their neighbours in the order of execution are."
    )
    whole = sorted({kind["label"] for kind in profile["kinds"]} & HOLDERS)
    if whole and not profile["times_inner_nodes"]:
        console.print(f"The engine does not time what is inside of {', '.join(whole)}: it counts with the node.")
