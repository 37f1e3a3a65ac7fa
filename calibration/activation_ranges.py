"""How large the tensors of a graph become on calibration frames, which decides whether fp16 can hold them.

The largest magnitudes are found inside the graph, so that one number of each tensor leaves the runtime: all tensors of
one large frame together are hundreds of megabytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx.helper
import onnx.shape_inference
from onnx import ModelProto, NodeProto, TensorProto

from rs4d_edge.calibration.calibration_set import Feeds
from rs4d_edge.errors import ExportError
from rs4d_edge.runtimes.onnxruntime_runtime import OnnxRuntime

_LARGEST = "largest/"  # prefix of all new names
# Operators that add up more than they answer with, each with the operator of the same inputs that answers with the sum.
_SUMS = {"ReduceMean": "ReduceSum", "ReduceL2": "ReduceSumSquare"}


def float_tensors(model: ModelProto) -> set[str]:
    """The fp32 tensors of the main graph: inputs, constants and results. ExportError if a result's type is unknown."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    unknown = [name for node in graph.node for name in node.output if name and not types.get(name)]
    if unknown:
        raise ExportError(f"the types of {', '.join(unknown[:5])} are not known: export from a graph with known types")
    constants = {held.name for held in graph.initializer if held.data_type == TensorProto.FLOAT}
    return {name for name, kind in types.items() if kind == TensorProto.FLOAT} | constants


def measure_ranges(
    model: ModelProto, feeds: Iterable[Feeds], folder: Path, *, threads: int | None = None
) -> dict[str, float]:
    """The largest magnitude of each fp32 result of the main graph over all `feeds`; NaN is passed over.

    Where a node adds up more than it answers with (a mean), the sum counts as its result. `folder` takes a temporary
    file.
    """
    largest: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".ranges-") as work:
        path = Path(work, "model.onnx")
        onnx.save(measuring(model), path)
        runtime = OnnxRuntime(path, threads=threads)
        try:
            for each in feeds:
                for shown, value in runtime.run(each).items():
                    name = shown.removeprefix(_LARGEST)
                    largest[name] = max(largest.get(name, 0.0), float(value))
        finally:
            runtime.close()
    return largest


def measuring(model: ModelProto) -> ModelProto:
    """A copy whose outputs are the largest magnitudes of the fp32 results, each named `largest/` and the result."""
    changed = ModelProto()
    changed.CopyFrom(model)
    floats = float_tensors(model)
    nodes: list[NodeProto] = []
    shown: list[str] = []
    for node in model.graph.node:
        nodes.append(node)
        results = [name for name in node.output if name in floats]
        for name in results:
            watched = name
            if node.op_type in _SUMS and not node.domain:
                watched = f"{_LARGEST}sum/{name}"
                nodes += _summed(node, watched)
            nodes += _largest(watched, f"{_LARGEST}{name}")
        shown += results
    del changed.graph.node[:], changed.graph.output[:]
    changed.graph.node.extend(nodes)
    changed.graph.output.extend(
        onnx.helper.make_tensor_value_info(f"{_LARGEST}{name}", TensorProto.FLOAT, ()) for name in shown
    )
    return changed


def _summed(node: NodeProto, result: str) -> list[NodeProto]:
    """What `node` adds up, by magnitude, since the parts of a sum may be larger than the whole."""
    magnitude = f"{result}/magnitude"
    total = NodeProto()
    total.CopyFrom(node)
    total.op_type, total.name = _SUMS[node.op_type], result
    total.input[0], total.output[0] = magnitude, result
    return [onnx.helper.make_node("Abs", [node.input[0]], [magnitude], name=magnitude), total]


def _largest(name: str, result: str) -> list[NodeProto]:
    """The largest magnitude of all elements; of none, minus infinity."""
    magnitude = f"{result}/magnitude"
    return [
        onnx.helper.make_node("Abs", [name], [magnitude], name=magnitude),
        onnx.helper.make_node("ReduceMax", [magnitude], [result], name=result, keepdims=0),
    ]
