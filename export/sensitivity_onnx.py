"""ONNX files that show what rounding does to the layers of a graph with Q/DQ pairs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx.numpy_helper
from onnx import ModelProto, NodeProto, ValueInfoProto
from onnx.reference import ReferenceEvaluator

from rs4d_edge.calibration.int8_scales import Floats
from rs4d_edge.calibration.layer_tensors import readers_of, result_of
from rs4d_edge.calibration.sensitivity import PROPOSALS, LayerProbe, ProbedModel, sqnr_db
from rs4d_edge.export.graph import save_graph
from rs4d_edge.export.watched_tensors import watching


def write_probes(graph: ModelProto, quantized: ModelProto, layers: Collection[str], folder: Path) -> ProbedModel:
    """Write the files into `folder`. `quantized` is `graph` with the nodes `layers` in int8, by `insert_qdq`."""
    readers = readers_of(graph)
    makers = {output: node for node in quantized.graph.node for output in node.output}
    rewritten = {node.name: node for node in quantized.graph.node}
    given, made = _held(graph), _held(quantized)
    probes, shapes = [], _shapes(graph)
    watched: dict[str, ValueInfoProto] = {}
    for node in graph.graph.node:
        if node.name not in layers:
            continue
        rounded = rewritten[node.name].input[0]
        source = makers[makers[rounded].input[0]].input[0]
        for name in (source, rounded):
            watched[name] = _renamed(shapes[node.input[0]], name)
        exact = _smoothed(given[node.input[1]], makers.get(source), made)
        weights = _dequantized(makers[rewritten[node.name].input[1]], made)
        probes.append(LayerProbe(node.name, sqnr_db(exact, weights), result_of(node, readers), source, rounded))
    results = list(dict.fromkeys(probe.result for probe in probes))
    results += [value.name for value in graph.graph.output if value.name == PROPOSALS and PROPOSALS not in results]
    paths = [folder / name for name in ("float.onnx", "quantized.onnx", "roundings.onnx")]
    save_graph(watching(graph, results), paths[0])
    save_graph(watching(quantized, results), paths[1])
    save_graph(watching(_with_shapes(quantized, watched.values()), list(watched)), paths[2])
    return ProbedModel(paths[0], paths[1], paths[2], tuple(probes))


def _held(model: ModelProto) -> dict[str, Floats]:
    return {held.name: onnx.numpy_helper.to_array(held) for held in model.graph.initializer}


def _shapes(model: ModelProto) -> dict[str, ValueInfoProto]:
    return {value.name: value for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)}


def _renamed(value: ValueInfoProto, name: str) -> ValueInfoProto:
    """The type and shape of `value` for a tensor that has the same."""
    renamed = ValueInfoProto()
    renamed.CopyFrom(value)
    renamed.name = name
    return renamed


def _with_shapes(model: ModelProto, values: Iterable[ValueInfoProto]) -> ModelProto:
    known = _shapes(model)
    extended = ModelProto()
    extended.CopyFrom(model)
    extended.graph.value_info.extend(value for value in values if value.name not in known)
    return extended


def _smoothed(weight: Floats, maker: NodeProto | None, made: Mapping[str, Floats]) -> Floats:
    """The weights (in, out) of a layer whose input `maker` makes, which may scale it for SmoothQuant."""
    if maker is None or maker.op_type != "Mul" or not maker.input[1].endswith("/smooth/factor"):
        return weight
    return np.asarray(weight / made[maker.input[1]][:, None], dtype=np.float32)


def _dequantized(node: NodeProto, made: Mapping[str, Floats]) -> Floats:
    """What a DequantizeLinear of constants gives, by ONNX's own definition."""
    values: Floats = np.asarray(ReferenceEvaluator(node).run(None, {name: made[name] for name in node.input}))[0]
    return values
