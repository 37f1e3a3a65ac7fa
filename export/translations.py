"""How the reference model's four operators are written in ONNX, and one of torch's that it would write clumsily.

The functions are called by `torch.onnx.export` while it walks the graph: each takes the ONNX values and Python numbers
of one node and answers with the ONNX value that stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnx.defs
import torch
from onnxscript import opset18 as op
from onnxscript.values import Op, Opset

# The definitions of the four operators: importing them registers torch.ops.rs4d.
import rs4d_edge.reference.mixer_core
import rs4d_edge.reference.nms
import rs4d_edge.reference.roi_align
import rs4d_edge.reference.scan  # noqa: F401
from rs4d_edge.export.mixer_function import MIXER_INPUTS, MIXER_OP
from rs4d_edge.export.scan_function import SCAN_DOMAIN, SCAN_DOMAIN_VERSION, SCAN_INPUTS, SCAN_OP

Value = Any  # a value of the ONNX graph under construction; onnxscript gives its type no public name


def translation_table() -> dict[Callable[..., Any], Callable[..., Value]]:
    """For `torch.onnx.export(custom_translation_table=...)`."""
    return {
        torch.ops.rs4d.selective_scan.default: selective_scan,
        torch.ops.rs4d.mixer_core.default: mixer_core,
        torch.ops.rs4d.nms_keep.default: nms_keep,
        torch.ops.rs4d.roi_align.default: roi_align,
        torch.ops.aten.softplus.default: softplus,
    }


def _own_op(name: str, inputs: Sequence[str], text: str, *attributes: onnx.defs.OpSchema.Attribute) -> Op:
    """An operator of our domain from fp32 inputs to one output y."""
    schema = onnx.defs.OpSchema
    definition = schema(
        name,
        SCAN_DOMAIN,
        SCAN_DOMAIN_VERSION,
        text,
        inputs=[schema.FormalParameter(each, "T") for each in inputs],
        outputs=[schema.FormalParameter("y", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=list(attributes),
    )
    return Op(Opset(SCAN_DOMAIN, SCAN_DOMAIN_VERSION), name, definition)


_REVERSE = onnx.defs.OpSchema.Attribute("reverse", onnx.helper.make_attribute("reverse", 0), "scan from the last token")
_SCAN = _own_op(SCAN_OP, SCAN_INPUTS, "The selective scan of a Mamba-1 mixer.", _REVERSE)
_MIXER = _own_op(MIXER_OP, MIXER_INPUTS, "A Mamba-1 mixer between in_proj and out_proj, in both directions.")


def selective_scan(u: Value, delta: Value, a: Value, b: Value, c: Value, d: Value, reverse: bool = False) -> Value:
    """One node of our domain; `scan_function` brings its body."""
    return _SCAN(u, delta, a, b, c, d, reverse=int(reverse))


def mixer_core(
    uz: Value,
    conv_weight: Value,
    conv_bias: Value,
    x_proj: Value,
    dt_proj: Value,
    dt_bias: Value,
    a: Value,
    d: Value,
) -> Value:
    """One node of our domain; `mixer_function` brings its body."""
    return _MIXER(uz, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, a, d)


def nms_keep(boxes: Value, scores: Value, iou_threshold: float, score_threshold: float, max_keep: int) -> Value:
    """NonMaxSuppression, whose list of survivors (group, class 0, box) is scattered into a mask (G, N)."""
    survivors = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, _ints(1)),
        _ints(max_keep),
        _floats(iou_threshold),
        _floats(score_threshold),
    )
    positions = op.Gather(survivors, _ints(0, 2), axis=1)  # (survivors, 2): group, box
    nothing = op.Expand(_scalar(0.0), op.Shape(scores))
    ones = op.Expand(_scalar(1.0), op.Shape(positions, start=0, end=1))
    return op.Cast(op.ScatterND(nothing, positions, ones), to=onnx.TensorProto.BOOL)


def roi_align(feature: Value, rois: Value, batch_index: Value, size: int, scale: float) -> Value:
    """RoiAlign with adaptive sampling. RoIs without area give 0, where OpenVINO's own answer is NaN."""
    pooled = op.RoiAlign(
        feature,
        rois,
        batch_index,
        output_height=size,
        output_width=size,
        sampling_ratio=0,
        spatial_scale=float(scale),
        mode="avg",
        coordinate_transformation_mode="half_pixel",
    )
    low = op.Slice(rois, _ints(0), _ints(2), _ints(1))
    high = op.Slice(rois, _ints(2), _ints(4), _ints(1))
    sides = op.ReduceMin(op.Sub(high, low), _ints(1), keepdims=1)  # (R, 1)
    alive = op.Unsqueeze(op.Greater(sides, _scalar(0.0)), _ints(2, 3))
    return op.Where(alive, pooled, _scalar(0.0))


def softplus(x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """Softplus as one node: past torch's threshold of 20 it differs from the identity by 2e-9 at most."""
    if beta != 1.0:
        return op.Div(op.Softplus(op.Mul(x, _scalar(float(beta)))), _scalar(float(beta)))
    return op.Softplus(x)


def _scalar(value: float) -> Value:
    return op.Constant(value_float=float(value))


def _floats(*values: float) -> Value:
    return op.Constant(value_floats=[float(value) for value in values])


def _ints(*values: int) -> Value:
    return op.Constant(value_ints=list(values))
