"""What makes quantized files smaller, and pools faster, changes next to no number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx.numpy_helper
from onnx import ModelProto

from rs4d_edge.calibration.frames import scene_frames
from rs4d_edge.export.compact_constants import compact_constants
from rs4d_edge.export.conditional_masks import loop_masks
from rs4d_edge.export.graph import only_outputs
from rs4d_edge.export.pooling_layout import pool_channels_last
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.runtimes.onnxruntime_runtime import OnnxRuntime
from tests.export.conftest import SIZE_HW


def test_compacted_constants_and_the_pools_layout_change_next_to_nothing(
    translated: ModelProto, detector: RS4D, tmp_path: Path
) -> None:
    plain = loop_masks(only_outputs(translated))
    changed = pool_channels_last(compact_constants(plain, detector.config))
    assert changed.ByteSize() < plain.ByteSize()
    assert not any(held.dims[:] == [192, 4] for held in changed.graph.initializer)  # 8x12 cells of 6 anchors
    assert sum(node.name.startswith("channels_last/") for node in changed.graph.node) == 3
    outputs = []
    for name, graph in (("plain", plain), ("changed", changed)):
        onnx.save(graph, tmp_path / f"{name}.onnx")
        runtime = OnnxRuntime(tmp_path / f"{name}.onnx", threads=1)
        feeds: dict[str, Any] = {
            "frame": scene_frames(1, SIZE_HW)[0][None],
            "valid_hw": np.array([SIZE_HW], dtype=np.int64),
        }
        outputs.append(runtime.run(feeds))
        runtime.close()
    for name in ("boxes", "scores", "masks"):  # position embedding and mask head were rounded to fp16
        np.testing.assert_allclose(outputs[1][name], outputs[0][name], atol=2e-3 * np.abs(outputs[0][name]).max())


def test_anchors_are_the_same_numbers(translated: ModelProto, detector: RS4D) -> None:
    before = {held.name: held for held in translated.graph.initializer}
    compacted = compact_constants(translated, detector.config).graph
    held = {each.name: onnx.numpy_helper.to_array(each) for each in compacted.initializer}
    sums = [node for node in compacted.node if node.name.endswith("/sum")]
    assert len(sums) == len(detector.config.proposals.strides)
    for node in sums:
        name = node.name.removesuffix("/sum")
        table = (held[f"{name}/rows"] + held[f"{name}/columns"] + held[f"{name}/shapes"]).reshape(-1, 4)
        np.testing.assert_array_equal(table, onnx.numpy_helper.to_array(before[name]))
