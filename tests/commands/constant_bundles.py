"""Bundles whose model finds the same objects in every frame, made of nothing but ONNX; they run in ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rs4d_edge.bundle import write_bundle
from rs4d_edge.contract import ModelContract
from rs4d_edge.manifest import WeightsRecord
from tests.stand_ins import CLASSES, golden_frame, outputs, parity, square_detections

SIDE = 64
CONTRACT = ModelContract(image_size_hw=(SIDE, SIDE), classes=CLASSES, max_detections=4)
BOXES = ([4.0, 4.0, 24.0, 24.0], [30.0, 30.0, 60.0, 50.0])  # xyxy in pixels: an airplane and a ship
SMALL_OPSET, SMALL_IR = 17, 8


def write_constant_bundle(
    out: Path, precision: str, *, found: int = 2, padding: int = 0, target: str = "onnx", weights: str = "0" * 64
) -> Path:
    """The first `found` of both objects with a score of 0.9; `padding` bytes make the file larger."""
    with write_bundle(out) as draft:
        labels = list(range(found))
        answer = outputs(CONTRACT, list(BOXES[:found]), [0.9] * found, labels)
        onnx.save(constant_model(answer, padding), str(draft.path / "model.onnx"))
        draft.add_golden(golden_frame(), square_detections())
        draft.seal(
            name="constant",
            target=target,
            runtime="onnxruntime",
            precision=precision,
            contract=CONTRACT,
            model="model.onnx",
            weights=WeightsRecord(name="none", sha256=weights),
            parity=parity(),
        )
    return out


def constant_model(answer: dict[str, Any], padding: int = 0) -> onnx.ModelProto:
    """A graph with the contract's inputs, which it does not read, and `answer` as its outputs."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.UINT8 if name == "frame" else TensorProto.INT64, shape)
        for name, shape in CONTRACT.input_shapes.items()
    ]
    nodes, results = [], []
    for name, array in answer.items():
        nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        results.append(helper.make_tensor_value_info(name, kind, array.shape))
    graph = helper.make_graph(nodes, "constant", inputs, results, doc_string="." * padding)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", SMALL_OPSET)], ir_version=SMALL_IR)


def write_data(folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """A COCO file `val.json` with both objects in each of three images, which lie in `images` beside it."""
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in (1, 2, 3):
        image = np.full((SIDE, SIDE, 3), 60 * number, np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
        images.append({"id": number, "file_name": f"{number}.png", "height": SIDE, "width": SIDE})
        for label, (left, top, right, bottom) in enumerate(BOXES):
            outline = [left, top, right, top, right, bottom, left, bottom]
            sides = (right - left, bottom - top)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [left, top, *sides],
                    "area": sides[0] * sides[1],
                    "segmentation": [outline],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(classes)]
    path = folder / "val.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path
