"""A detector small enough to be exported in seconds, with random weights under which it detects something."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from onnx import ModelProto

from rs4d_edge.calibration.calibration_set import CalibrationSet
from rs4d_edge.calibration.frames import scene_frames
from rs4d_edge.export.graph import fit_model, translate
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.config import (
    DetectorConfig,
    EncoderConfig,
    HeadType,
    NeckConfig,
    NeckType,
    PromptConfig,
    ProposalConfig,
    RoIConfig,
)
from rs4d_edge.reference.detector import RS4D

SIZE_HW = (64, 96)


def tiny_config(head: HeadType = HeadType.BBOX) -> DetectorConfig:
    """Two layers, 24 tokens, 20 proposals, 8 detections."""
    return DetectorConfig(
        name=f"tiny-{head.value}",
        head=head,
        classes=("ship", "plane", "tank"),
        encoder=EncoderConfig(
            channels=32, depth=2, inner_channels=32, state_size=4, image_size_hw=SIZE_HW, stem_channels=(8, 8, 16)
        ),
        neck=NeckConfig(type=NeckType.EDGE, layers=(), channels=32),
        proposals=ProposalConfig(strides=(8, 16, 32, 64), scales=(2.5, 4.0), channels=16, pre_nms=40, proposals=20),
        roi=RoIConfig(strides=(8, 16, 32), fc_channels=32, mask_convs=1, mask_channels=8),
        prompt=PromptConfig(decoder_heads=2, mlp_channels=32, iou_head_channels=16)
        if head is HeadType.PROMPT
        else None,
        max_detections=8,
    )


def tiny_detector(head: HeadType = HeadType.BBOX) -> RS4D:
    """Random weights, larger than at the start of training: scores that differ, boxes that move."""
    torch.manual_seed(3)
    model = RS4D(tiny_config(head)).eval()
    with torch.no_grad():
        for layer, gain in (
            (model.rpn_head.rpn_cls, 60.0),
            (model.rpn_head.rpn_reg, 30.0),
            (model.roi_head.bbox_head.fc_cls, 60.0),
            (model.roi_head.bbox_head.fc_reg, 60.0),
        ):
            layer.weight.mul_(gain)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 2.0)
        frame = torch.from_numpy(scene_frames(1, SIZE_HW)[0][None])
        logits = model.features(frame, torch.tensor([SIZE_HW]))["class_logits"]
        model.roi_head.bbox_head.fc_cls.bias.copy_(-logits.mean(dim=0))  # else one class wins everywhere
    return model


@functools.cache
def tiny_translation(head: HeadType, size_hw: tuple[int, int]) -> ModelProto:
    """The graph of `tiny_detector` with all intermediate results, made once for all tests: not to be changed."""
    return translate(fit_model(tiny_detector(head), size_hw))


def shared_translation(model: RS4D, batch: int) -> ModelProto:
    """For `pipeline.translate`: a tiny model's translation, free to be changed, with all of its few masks at once."""
    config = model.config
    assert batch == 1 and getattr(model.roi_head, "rows", config.max_detections) == config.max_detections
    copied = ModelProto()
    copied.CopyFrom(tiny_translation(config.head, config.encoder.image_size_hw))
    return copied


def scene_files(folder: Path) -> CalibrationSet:
    """Four drawn scenes as files, the first of which are the golden frames."""
    for number, frame in enumerate(scene_frames(4, SIZE_HW)):
        assert cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return CalibrationSet(folder.name, tuple(sorted(folder.iterdir())))


@pytest.fixture(scope="package", autouse=True)
def _one_thread(_torch_threads: None) -> Iterator[None]:
    """The model is so small that threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_detector() -> Callable[[HeadType], RS4D]:
    """`tiny_detector`, for tests that change the model or want the other head."""
    return tiny_detector


@pytest.fixture(scope="session")
def detector() -> RS4D:
    """Shared: not to be changed."""
    return tiny_detector()


@pytest.fixture(scope="session")
def translated() -> ModelProto:
    """The graph of `detector` with all intermediate results; shared: not to be changed."""
    return tiny_translation(HeadType.BBOX, SIZE_HW)


@pytest.fixture(scope="session")
def val_json(detector: RS4D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, and as the truth what the float model sees in them: random weights know no classes."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    with Predictor(detector) as predictor:
        for number, frame in enumerate(scene_frames(6, SIZE_HW)):
            name = f"{number}.png"
            assert cv2.imwrite(str(folder / "images" / name), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            height, width = frame.shape[:2]
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            for found in predictor.run(frame).to_coco(image_id=number, category_ids=(1, 2, 3)):
                area = found["bbox"][2] * found["bbox"][3]
                objects.append({**found, "id": len(objects) + 1, "area": area, "iscrowd": 0})
    categories = [{"id": index, "name": name} for index, name in enumerate(("ship", "plane", "tank"), start=1)]
    content = {"images": images, "annotations": objects, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    return folder / "val.json"
