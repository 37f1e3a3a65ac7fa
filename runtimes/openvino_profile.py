"""OpenVINO with the time of every node, by the engine's own counters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import openvino

from rs4d_edge.errors import RuntimeFailure
from rs4d_edge.layer_times import NodeTime
from rs4d_edge.runtimes.contract import Array, check_file
from rs4d_edge.runtimes.openvino_runtime import OpenVINORuntime, compile_options

_FOREIGN = "Reference"  # how the engine calls every node that an extension brought


def open_profiled(model_path: Path, *, threads: int | None, precision: str) -> ProfiledOpenVINO:
    """Load the model as `openvino_runtime.open_model` does, and once more with counters."""
    check_file(model_path)
    return ProfiledOpenVINO(model_path, threads=threads, precision=precision)


class ProfiledOpenVINO(OpenVINORuntime):
    """Follows `rs4d_edge.layer_times.ProfiledRuntime`.

    What the engine fused is one node under the name of one of them. Of a node with a graph inside it the engine tells
    the whole time.
    """

    def __init__(self, model_path: Path, *, threads: int | None = None, precision: str = "fp32") -> None:
        super().__init__(model_path, threads=threads, precision=precision)
        options = compile_options(threads, precision) | {"PERF_COUNT": True}
        try:
            compiled = self._core.compile_model(self._core.read_model(model_path), "CPU", options)
            request = compiled.create_infer_request()
        except RuntimeError as error:
            raise RuntimeFailure(f"OpenVINO cannot load {model_path} with counters: {error}") from error
        self._request = request
        self._slots = {spec.name: request.get_input_tensor(index).data for index, spec in enumerate(self._inputs)}
        self._outputs_of = _first_outputs(compiled)
        self._runs: list[list[NodeTime]] = []

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once and keep the counters; see `Runtime.run`."""
        outputs = super().run(feeds)
        if self._request is not None:
            self._runs.append([self._node(info) for info in self._request.profiling_info if _executed(info)])
        return outputs

    def finish(self) -> list[list[NodeTime]]:
        """Close it; the nodes of each run."""
        self.close()
        return self._runs

    def _node(self, info: openvino.ProfilingInfo) -> NodeTime:
        kind = info.node_type
        if kind == _FOREIGN:
            kind = info.node_name.rsplit("/", 1)[-1].rstrip("_0123456789")
        shape, item_bytes = self._outputs_of.get(info.node_name, ((1,), 0))
        return NodeTime(info.node_name, kind, info.real_time.total_seconds() * 1e3, shape, item_bytes)


def _executed(info: openvino.ProfilingInfo) -> bool:
    return bool(info.status == openvino.ProfilingInfo.Status.EXECUTED)


def _first_outputs(compiled: openvino.CompiledModel) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape and bytes of an element of each node's first output; nodes of unknown shape are left out."""
    found = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        if node.get_output_size() and node.get_output_partial_shape(0).is_static:
            shape = tuple(int(side) for side in node.get_output_shape(0))
            found[node.get_friendly_name()] = (shape, int(node.get_output_element_type(0).size))
    return found
