"""ONNX Runtime with the time of every node, from the session's own profile."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rs4d_edge.errors import ClosedError
from rs4d_edge.layer_times import NodeTime
from rs4d_edge.runtimes.contract import check_file
from rs4d_edge.runtimes.onnxruntime_runtime import OnnxRuntime, check_precision

_NODE_SUFFIX = "_kernel_time"
_ITEM_BYTES = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("float", "int32", "uint32"), 4),
    **dict.fromkeys(("double", "int64", "uint64"), 8),
}
Event = dict[str, Any]


def open_profiled(model_path: Path, *, threads: int | None, precision: str) -> ProfiledOnnxRuntime:
    """Load the model as `onnxruntime_runtime.open_model` does, with the profile switched on."""
    check_file(model_path)
    check_precision(precision)
    return ProfiledOnnxRuntime(model_path, threads=threads, precision=precision)


class ProfiledOnnxRuntime(OnnxRuntime):
    """Follows `rs4d_edge.layer_times.ProfiledRuntime`. The profile is written to a temporary folder and read from it.

    Timing costs about 5 us a node: little for a network of few hundred nodes, much for scans through the plain body.
    """

    def __init__(self, model_path: Path, *, threads: int | None = None, precision: str = "fp32") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rs4d-profile-")
        try:
            prefix = Path(self._folder.name, "run")
            super().__init__(model_path, threads=threads, profile_prefix=prefix, precision=precision)
        except Exception:
            self._folder.cleanup()
            raise

    def finish(self) -> list[list[NodeTime]]:
        """Close it; the nodes of each run. Only once."""
        if self._session is None:
            raise ClosedError("this onnxruntime session was closed; open another")
        path = self._session.end_profiling()
        events = json.loads(Path(path).read_text(encoding="utf-8"))
        self.close()
        return nodes_of_runs(events)

    def close(self) -> None:
        """Let go of the model and of the profile."""
        super().close()
        self._folder.cleanup()


def nodes_of_runs(events: Iterable[Event]) -> list[list[NodeTime]]:
    """The nodes of each run from the events of a profile, in the order in which they began.

    A node that holds a graph (If, Loop, Scan) has an event around those of the nodes inside: it keeps what is left.
    """
    timed = sorted(events, key=lambda event: (event.get("ts", 0), -event.get("dur", 0)))
    ends = sorted(event["ts"] + event["dur"] for event in timed if event.get("name") == "model_run")
    nodes = [event for event in timed if event.get("cat") == "Node" and event["name"].endswith(_NODE_SUFFIX)]
    runs: list[list[Event]] = [[] for _ in ends]
    for event in nodes:
        number = next((number for number, end in enumerate(ends) if event["ts"] < end), None)
        if number is not None:
            runs[number].append(event)
    return [_own_times(run) for run in runs]


def _own_times(run: list[Event]) -> list[NodeTime]:
    own_us = [float(event["dur"]) for event in run]
    outermost: list[int | None] = []
    around: list[int] = []  # the events that have not ended yet, from the outermost on
    for index, event in enumerate(run):
        while around and event["ts"] >= run[around[-1]]["ts"] + run[around[-1]]["dur"]:
            around.pop()
        outermost.append(around[0] if around else None)
        if around:
            own_us[around[-1]] -= event["dur"]
        around.append(index)
    return [
        _node(event, max(own, 0.0) / 1e3, None if outer is None else _name(run[outer]))
        for event, own, outer in zip(run, own_us, outermost, strict=True)
    ]


def _node(event: Event, ms: float, outer: str | None) -> NodeTime:
    first: dict[str, list[int]] = next(iter(event["args"].get("output_type_shape", ())), {})
    kind, shape = next(iter(first.items()), ("", [1]))
    return NodeTime(_name(event), event["args"]["op_name"], ms, tuple(shape), _ITEM_BYTES.get(kind, 0), outer)


def _name(event: Event) -> str:
    return str(event["name"]).removesuffix(_NODE_SUFFIX)
