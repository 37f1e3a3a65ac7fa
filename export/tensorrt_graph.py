"""From an exported graph to one of operators that TensorRT-RTX builds ahead of time, and TensorRT 10 and 11 list, too.

The result is plain ONNX with the same inputs, outputs and numbers: any runtime runs it, so the gate compares the very
graph that engines are built from. Builds are tried with TensorRT-RTX 1.7; TensorRT itself does nothing without a GPU.
"""

from __future__ import annotations

import onnx
import onnxscript.optimizer
from onnx import ModelProto, NodeProto, TensorProto

from rs4d_edge.export.graph import only_outputs, save_graph
from rs4d_edge.export.model_files import Written
from rs4d_edge.export.recipes import ScanForm
from rs4d_edge.export.scan_function import add_scan_function, inline_scan
from rs4d_edge.export.tensorrt_mixer import split_mixers
from rs4d_edge.export.tensorrt_nms import nms_function, nms_nodes
from rs4d_edge.export.tensorrt_operators import check_operators
from rs4d_edge.export.tensorrt_roi_align import roi_align_functions, roi_align_nodes
from rs4d_edge.export.tensorrt_scan import add_plain_scan_function
from rs4d_edge.export.tensorrt_selection import select_by_plugins, selection_functions

# Bytes of a constant that is worth computing ahead: sizes, shapes and indices, but not weights, whose fp16 or int8 form
# would be lost.
_FOLD_LIMIT = 1 << 12


def rewrite_for_tensorrt(written: Written, scan: ScanForm) -> Written:
    """Rewrite both files that an export wrote, in place: the one with all outputs, of which the model's is a part."""
    graph = tensorrt_graph(onnx.load(written.features_path), scan)
    check_operators(graph, plugins=scan is ScanForm.PLUGIN)
    save_graph(graph, written.features_path)
    save_graph(only_outputs(graph), written.model_path)
    return written._replace(scan=scan)


def tensorrt_graph(model: ModelProto, scan: ScanForm = ScanForm.PLAIN) -> ModelProto:
    """A copy of `model` in operators that TensorRT builds, with fixed shapes.

    `ScanForm.PLAIN` has everything in standard operators, `ScanForm.PLUGIN` mixers' cores as `split_mixers` makes them,
    and NMS and RoIAlign as `select_by_plugins` does, with bodies for runtimes without the plugins; TensorRT's parser
    takes a body if there is one, so that for the plugins it must be given the file without its functions. Raises
    ExportError where something stands in the graph that the exporter does not write.
    """
    graph = split_mixers(model) if scan is ScanForm.PLUGIN else model
    graph = only_outputs(graph, [value.name for value in model.graph.output])
    pools, constants = roi_align_nodes(graph)
    _replace(graph, nms_nodes(graph) | pools)
    graph.graph.initializer.extend(constants)
    if scan is ScanForm.PLUGIN:
        select_by_plugins(graph)
        add_scan_function(graph)
        graph.functions.extend(selection_functions(graph))
    else:
        add_plain_scan_function(graph)
        add_scan_function(graph)
        graph.functions.extend([nms_function(), *roi_align_functions()])
    _agree_on_opset(graph)
    _cast_frames_first(graph)
    return _named(_folded(graph if scan is ScanForm.PLUGIN else inline_scan(graph)))


def _replace(model: ModelProto, nodes: dict[str, NodeProto]) -> None:
    """Put `nodes` in the places of the nodes of those names; what only the old ones read is left for `_folded`."""
    kept = [NodeProto.FromString(nodes.get(node.name, node).SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _agree_on_opset(model: ModelProto) -> None:
    """Functions in the graph's opset, 19 where scales are fp16, or they would stay: theirs is the same in both."""
    version = max(opset.version for opset in model.opset_import if not opset.domain)
    for function in model.functions:
        for opset in function.opset_import:
            if not opset.domain:
                opset.version = version


def _cast_frames_first(model: ModelProto) -> None:
    """TensorRT takes bytes as an input alone, to be cast at once: ahead of the transpose, not behind it."""
    graph = model.graph
    frames = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8}
    for first in graph.node:
        readers = [node for node in graph.node if first.output[0] in node.input]
        if [first.op_type, *(node.op_type for node in readers)] != ["Transpose", "Cast"] or first.input[
            0
        ] not in frames:
            continue
        second, cast = readers[0], NodeProto.FromString(readers[0].SerializeToString())
        cast.input[0], cast.output[0] = first.input[0], first.output[0]
        first.input[0], first.output[0] = second.input[0], second.output[0]
        second.CopyFrom(first)
        first.CopyFrom(cast)
        known = [value for value in graph.value_info if value.name != cast.output[0]]
        del graph.value_info[:]
        graph.value_info.extend(known)


def _folded(model: ModelProto) -> ModelProto:
    """With sizes as constants, and without what nobody reads; changed in place.

    The rest of what `onnxscript.optimizer.optimize` does has been done when the model was translated, and takes most of
    its time.
    """
    onnxscript.optimizer.fold_constants(
        model, onnx_shape_inference=True, input_size_limit=_FOLD_LIMIT, output_size_limit=_FOLD_LIMIT
    )
    onnxscript.optimizer.remove_unused_nodes(model)
    return model


def _named(model: ModelProto) -> ModelProto:
    """With a name of its own for each node, so that TensorRT's messages say which one is meant; changed in place."""
    taken: set[str] = set()
    for node in model.graph.node:
        if not node.name or node.name in taken:
            node.name = f"{node.output[0]}/{node.op_type}"
        taken.add(node.name)
    return model
