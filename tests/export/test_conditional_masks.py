"""Masks in a loop over the rows that are found: the same masks, and no work for the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from onnx import GraphProto, ModelProto
from torch import Tensor, nn
from torch.nn import functional

from rs4d_edge.contract import OUTPUT_NAMES
from rs4d_edge.errors import ExportError
from rs4d_edge.export.conditional_masks import FirstRows, loop_masks, with_first_masks
from rs4d_edge.export.graph import example_inputs, only_outputs, save_graph, translate_module
from rs4d_edge.reference.box_head import BoxDetections
from rs4d_edge.reference.config import HeadType
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.roi_stage import RoIHead
from rs4d_edge.runtimes.table import open_runtime

SIZE_HW = (64, 96)
BATCH, TOTAL, ROWS = 2, 8, 3  # three passes, the last of which begins one row early
FOUND = [(0, 0), (3, 1), (2, 4), (8, 8)]
PASSES = [0, 1, 2, 3]


class Drawn(nn.Module):
    """A detector whose detections are written in the frame's first rows of pixels; its maps are the frame's colours."""

    mix: Tensor
    positions: Tensor | None

    def __init__(self, model: RS4D, head: RoIHead) -> None:
        super().__init__()
        self.roi_head, self.config = head, head.config
        self.register_buffer("mix", torch.randn(64, 3, 1, 1, generator=torch.Generator().manual_seed(1)))
        embed, grid_hw = model.shared_image_embedding, (SIZE_HW[0] // 16, SIZE_HW[1] // 16)
        self.register_buffer("positions", None if embed is None else embed(grid_hw).detach())

    def forward(self, frame: Tensor, valid_hw: Tensor) -> tuple[Tensor, ...]:
        """Boxes, scores, labels and masks of `TOTAL` detections."""
        pixels = frame[:, :3, :TOTAL].float()
        scores = pixels[:, 0, :, 0] / 255
        corner = pixels[:, 1, :, :2] / 8
        boxes = torch.cat((corner, corner + 1 + pixels[:, 2, :, :2] / 4), dim=-1) * (scores > 0)[..., None]
        labels = frame[:, 0, :TOTAL, 1].long() % len(self.config.classes) + 0 * valid_hw[:, :1]
        found = BoxDetections(boxes, scores, labels)
        levels = [self._map(frame, stride, self.config.neck.channels) for stride in self.config.roi.strides]
        embedding = self._map(frame, 16, self.config.encoder.channels)
        encoder, detailed = self.config.encoder, self.config.roi.detail_channels
        stem = self._map(frame, 4, encoder.stem_channels[1]) if encoder.stem_channels and detailed else None
        return *found, self.roi_head.masks(levels, found, embedding, self.positions, stem)

    def _map(self, frame: Tensor, stride: int, channels: int) -> Tensor:
        image = frame.permute(0, 3, 1, 2).float() / 64 - 2
        return functional.conv2d(functional.avg_pool2d(image, stride), self.mix[:channels])


class Case(NamedTuple):
    """A head in torch, and its graph with masks of the first rows only."""

    module: Drawn
    graph: ModelProto


@pytest.fixture(scope="module", params=list(HeadType))
def case(request: pytest.FixtureRequest, make_detector: Callable[[HeadType], RS4D]) -> Case:
    """Each kind of head, translated once, the `bbox` one with the stem's detail; not to be changed."""
    model = make_detector(request.param)
    head = model.roi_head
    if request.param is HeadType.BBOX:
        roi = head.config.roi.model_copy(update={"detail_channels": 4})
        head = RoIHead(head.config.model_copy(update={"roi": roi}))
    first = Drawn(model, FirstRows(head, ROWS)).eval()
    return Case(Drawn(model, head).eval(), translate_module(first, example_inputs(SIZE_HW, BATCH), OUTPUT_NAMES))


def drawn_frames(found: Sequence[int]) -> tuple[Tensor, Tensor]:
    """One random frame for each image, in which so many detections are found, best first."""
    frames = torch.randint(0, 256, (BATCH, *SIZE_HW, 3), generator=torch.Generator().manual_seed(2))
    best_first = 250 - 20 * torch.arange(TOTAL)
    for image, count in enumerate(found):
        frames[image, 0, :TOTAL, 0] = torch.where(torch.arange(TOTAL) < count, best_first, 0)
    return frames.to(torch.uint8), torch.tensor([SIZE_HW] * BATCH)


def loop_body(graph: GraphProto) -> GraphProto:
    """The body of the one loop."""
    (loop,) = (node for node in graph.node if node.op_type == "Loop")
    body: GraphProto = loop.attribute[0].g
    return body


@pytest.mark.parametrize(
    ("runtime", "channels_last"), [("onnxruntime", False), ("onnxruntime", True), ("openvino", True)]
)
def test_masks_are_those_of_all_rows_at_once(case: Case, runtime: str, channels_last: bool, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    path = save_graph(loop_masks(case.graph, channels_last=channels_last), tmp_path / "model.onnx")
    opened = open_runtime(runtime, path, threads=1)
    for counts in FOUND:
        given = drawn_frames(counts)
        with torch.inference_mode():
            expected = dict(zip(OUTPUT_NAMES, case.module(*given), strict=True))
        found = opened.run({"frame": given[0].numpy(), "valid_hw": given[1].numpy()})
        for name in OUTPUT_NAMES:
            np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=0, atol=2e-6, err_msg=name)
        for image, count in enumerate(counts):
            masks = found["masks"][image]
            assert not masks[count:].any()
            assert (masks[:count].std(axis=(1, 2)) > 1e-3).all(), "the masks show nothing"
    opened.close()


def test_only_rows_that_are_found_are_worked_on(case: Case, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = save_graph(loop_masks(case.graph), tmp_path / "model.onnx")
    pools = sum(node.op_type == "RoiAlign" for node in loop_body(loop_masks(case.graph).graph).node)
    for counts, passes in zip(FOUND, PASSES, strict=True):
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        frame, valid_hw = drawn_frames(counts)
        session.run(None, {"frame": frame.numpy(), "valid_hw": valid_hw.numpy()})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        ran = [event for event in events if event.get("args", {}).get("op_name") == "RoiAlign"]
        assert len([event for event in ran if event["name"].endswith("_kernel_time")]) == passes * pools


def test_every_weight_is_held_once_and_where_it_is_read(case: Case) -> None:
    looped = loop_masks(case.graph).graph
    inside, outside = ({held.name: held for held in graph.initializer} for graph in (loop_body(looped), looped))
    assert not inside.keys() & outside.keys()
    before = {held.name for held in case.graph.graph.initializer}
    assert before <= inside.keys() | outside.keys()
    assert sum(held.ByteSize() for name, held in (inside | outside).items() if name not in before) < 2000
    read = {name for node in looped.node for name in node.input}
    assert outside.keys() >= read & (inside | outside).keys(), "the loop holds what is needed outside"
    assert "roi_head.mask_head.conv_logits.weight" in inside or case.module.config.head is HeadType.PROMPT


def test_what_is_the_same_in_each_pass_is_computed_outside(case: Case) -> None:
    moving = {"mask_rows/pass", "mask_rows/go_on", "mask_rows/all"}
    for node in loop_body(loop_masks(case.graph).graph).node:
        assert moving.intersection(node.input), f"{node.name} gives the same in each pass"
        moving.update(node.output)


def test_the_graph_given_is_not_changed(case: Case) -> None:
    before = case.graph.SerializeToString(deterministic=True)
    loop_masks(case.graph, channels_last=True)
    assert case.graph.SerializeToString(deterministic=True) == before


def test_no_more_rows_than_there_are(detector: RS4D) -> None:
    frame, valid_hw = example_inputs(detector.contract.image_size_hw, 1)
    frame[:, ::3, ::5] = 250
    with torch.inference_mode():
        expected = detector(frame, valid_hw)
        some, all_of_them = (with_first_masks(detector, rows)(frame, valid_hw) for rows in (3, 100))
    assert torch.equal(some.boxes, expected.boxes) and torch.equal(all_of_them.masks, expected.masks)
    torch.testing.assert_close(some.masks, expected.masks[:, :3])


def test_what_is_not_a_mask_part_is_refused(case: Case) -> None:
    with pytest.raises(ExportError, match=r"nothing.*mask_rows=0"):
        without = only_outputs(case.graph)
        for node in without.graph.node:
            node.input[:] = ["elsewhere" if name in OUTPUT_NAMES[:3] else name for name in node.input]
        loop_masks(without)
    with pytest.raises(ExportError, match="found extra"):
        other = only_outputs(case.graph)
        other.graph.node.add(op_type="Neg", input=["scores"], output=["extra"])
        other.graph.output.add(name="extra")
        loop_masks(other)
