"""The ranges that a model had when it learnt with rounding, on their way from the checkpoint to the export.

A key names a layer as the exported graph does, without the operator and with the number of the call: the input of the
node `rpn_head.rpn_conv/Conv_1` is `rpn_head.rpn_conv/1`, a convolution's result `neck.lateral8.1/0/result`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from onnx import ModelProto

from rs4d_edge.calibration.layer_tensors import PRODUCTS, activated, readers_of
from rs4d_edge.calibration.layers import WEIGHTED
from rs4d_edge.calibration.tensor_statistics import TensorStatistics
from rs4d_edge.errors import CheckpointError

RANGES_KEY = "rs4d_int8_ranges"  # in a checkpoint's metadata
RESULT = "/result"
_NODE = re.compile(rf"(?P<module>.+)/(?:{'|'.join(WEIGHTED)})(?:_(?P<number>\d+))?")


class TrainedRange(NamedTuple):
    """Magnitudes up to `largest` are told apart; `negative`: whether there are values below 0."""

    largest: float
    negative: bool


Ranges = dict[str, TrainedRange]


def ranges_as_text(ranges: Mapping[str, TrainedRange]) -> str:
    """For a checkpoint's metadata."""
    return json.dumps({key: [float(held.largest), held.negative] for key, held in ranges.items()})


def read_ranges(metadata: Mapping[str, str]) -> Ranges:
    """The ranges in a checkpoint's metadata; empty if it was trained without rounding. CheckpointError if damaged."""
    try:
        held = json.loads(metadata.get(RANGES_KEY, "{}"))
        return {str(key): TrainedRange(float(largest), bool(negative)) for key, (largest, negative) in held.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the checkpoint's {RANGES_KEY} cannot be read ({error}): expected what `rs4d-train --qat` wrote; "
            "use the file as it was written"
        ) from error


def ranges_of_tensors(model: ModelProto, ranges: Mapping[str, TrainedRange]) -> Ranges:
    """The same by the names of the tensors that layers of the graph `model` read and make, as far as it has them."""
    readers = readers_of(model)
    found: Ranges = {}
    for node in model.graph.node:
        named = _NODE.fullmatch(node.name)
        if named is None:
            continue
        key = f"{named['module']}/{named['number'] or 0}"
        if key in ranges:
            found.setdefault(node.input[0], ranges[key])
        if key + RESULT in ranges and node.op_type not in PRODUCTS:
            found.setdefault(activated(node, readers), ranges[key + RESULT])
    return found


def with_trained_ranges(
    statistics: Mapping[str, TensorStatistics], model: ModelProto, ranges: Mapping[str, TrainedRange]
) -> dict[str, TensorStatistics]:
    """`statistics` of tensors of `model`, in which those that were trained with a range have that one."""
    trained = ranges_of_tensors(model, ranges)
    return {
        name: replace(held, largest=trained[name].largest, negative=trained[name].negative) if name in trained else held
        for name, held in statistics.items()
    }
