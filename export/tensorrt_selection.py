"""NMS and RoIAlign as nodes for TensorRT's plugins, with the bodies that they have in graphs without plugins.

`rs4d_edge.runtimes.tensorrt_selection_operators` says what the plugins compute. NMS is a loop in standard operators,
and TensorRT records no loop whose end depends on the data into a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx.helper
import onnx.parser
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto

from rs4d_edge.errors import ExportError
from rs4d_edge.export.scan_function import SCAN_DOMAIN, SCAN_DOMAIN_VERSION
from rs4d_edge.export.tensorrt_mixer import PLUGIN_IDENTITY
from rs4d_edge.export.tensorrt_nms import NMS_OP, nms_function
from rs4d_edge.export.tensorrt_roi_align import ROI_ALIGN_OP, roi_align_functions
from rs4d_edge.native.cuda_selection import MOST_BOXES

# Not RoiAlign: TensorRT's parser goes by the name alone, and would take the node for ONNX's own.
ROI_PLUGIN_OP = "RoiAlignAdaptive"

# Computed in fp32 whatever the map is, as the kernel does.
_ROI_BODY = f"""
<domain: "rs4d", opset_import: ["" : 18, "rs4d" : 1]>
{ROI_PLUGIN_OP} <plugin_namespace, plugin_version> (feature, rois, scale, bins, steps) => (pooled)
{{
  exact = Cast <to: int = 1> (feature)
  exact_pooled = rs4d.{ROI_ALIGN_OP} (exact, rois, scale, bins, steps)
  pooled = CastLike (exact_pooled, feature)
}}
"""


def selection_functions(model: ModelProto) -> list[FunctionProto]:
    """The bodies of what `select_by_plugins` made, for `ModelProto.functions`; none for what the model lacks."""
    made = {node.op_type for node in model.graph.node if node.domain == SCAN_DOMAIN}
    functions = []
    if NMS_OP in made:
        functions.append(_nms_function())
    if ROI_PLUGIN_OP in made:
        functions += [onnx.parser.parse_function(_ROI_BODY), *roi_align_functions()]
    return functions


def _nms_function() -> FunctionProto:
    """The body of graphs without plugins, with its answer as a number; it must know the attributes of its nodes."""
    function = nms_function()
    cast = onnx.helper.make_node("Cast", [function.output[0]], ["keep_number"], to=TensorProto.INT32)
    function.node.append(cast)
    function.output[:] = cast.output
    function.attribute.extend(PLUGIN_IDENTITY)
    return function


def select_by_plugins(model: ModelProto) -> None:
    """Make the nodes `NmsKeep` and `RoiAlignDense` of `model` those of the plugins; changed in place.

    A map that was computed in fp16 is pooled as it is: reading it in fp32 would take a copy twice its size. Raises
    ExportError for more boxes than the plugin is compiled for.
    """
    graph = model.graph
    made_by = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    in_half = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    in_half |= {name for node in graph.node if _casts_to_half(node) for name in node.output}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.domain == SCAN_DOMAIN and node.op_type == NMS_OP:
            nodes += _nms(node, _boxes_of(model, node))
        elif node.domain == SCAN_DOMAIN and node.op_type == ROI_ALIGN_OP:
            cast = made_by.get(node.input[0])
            nodes += _roi_align(node, cast.input[0] if cast is not None and cast.input[0] in in_half else "")
        else:
            nodes.append(NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)
    if not any(opset.domain == SCAN_DOMAIN for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(SCAN_DOMAIN, SCAN_DOMAIN_VERSION))


def _casts_to_half(node: NodeProto) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16


def _nms(node: NodeProto, boxes: int) -> list[NodeProto]:
    if boxes > MOST_BOXES:
        raise ExportError(
            f"{node.name} chooses among {boxes} boxes, and the plugin is compiled for at most {MOST_BOXES}: use --scan "
            "plain"
        )
    # int32, because TensorRT hands plugins no bool, and int64 not in every version.
    most, kept = f"{node.name}/most", f"{node.output[0]}/number"
    return [
        onnx.helper.make_node("Cast", [node.input[2]], [most], name=f"{most}/Cast", to=TensorProto.INT32),
        _own(NMS_OP, node, [*node.input[:2], most, *node.input[3:]], kept),
        onnx.helper.make_node("Cast", [kept], node.output, name=f"{kept}/Cast", to=TensorProto.BOOL),
    ]


def _roi_align(node: NodeProto, half: str) -> list[NodeProto]:
    """`half`: the map in fp16, empty if there is none."""
    if not half:
        return [_own(ROI_PLUGIN_OP, node, node.input, node.output[0])]
    pooled = f"{node.output[0]}/pooled"
    own = _own(ROI_PLUGIN_OP, node, [half, *node.input[1:]], pooled)
    return [own, onnx.helper.make_node("Cast", [pooled], node.output, name=f"{pooled}/Cast", to=TensorProto.FLOAT)]


def _boxes_of(model: ModelProto, node: NodeProto) -> int:
    """How many boxes a group has, 0 if that is not known."""
    for value in (*model.graph.input, *model.graph.value_info):
        if value.name == node.input[0]:
            return int(value.type.tensor_type.shape.dim[1].dim_value)
    return 0


def _own(op_type: str, node: NodeProto, inputs: Sequence[str], output: str) -> NodeProto:
    return onnx.helper.make_node(op_type, inputs, [output], name=node.name, domain=SCAN_DOMAIN, **PLUGIN_IDENTITY)
