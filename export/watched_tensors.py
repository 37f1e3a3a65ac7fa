"""An ONNX graph whose outputs are inner tensors."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, ValueInfoProto

from rs4d_edge.errors import ExportError
from rs4d_edge.export.graph import only_outputs


def watching(graph: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """A copy of `graph` with the outputs `tensors` alone. ExportError for a tensor whose shape the graph leaves out."""
    shown = ModelProto()
    shown.CopyFrom(graph)
    known: dict[str, ValueInfoProto] = {value.name: value for value in (*graph.graph.value_info, *graph.graph.output)}
    missing = [name for name in tensors if name not in known]
    if missing:
        raise ExportError(f"the shapes of {', '.join(missing)} are not known, so they cannot be watched")
    del shown.graph.output[:]
    shown.graph.output.extend(known[name] for name in tensors)
    return only_outputs(shown, tensors)
