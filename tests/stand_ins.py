"""A runtime with known answers, and a small bundle around it, for tests of the device library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rs4d_edge.bundle import write_bundle
from rs4d_edge.contract import MaskKind, ModelContract
from rs4d_edge.detections import Detections
from rs4d_edge.frames import Frame
from rs4d_edge.manifest import DetectionParity, Manifest, ParityRecord, TensorParity, WeightsRecord
from rs4d_edge.masks import InstanceMask, MaskCrop
from rs4d_edge.runtimes.contract import TensorSpec

Array = npt.NDArray[Any]
CLASSES = ("airplane", "ship", "bridge")


def contract(
    kind: MaskKind = MaskKind.ROI, size_hw: tuple[int, int] = (64, 96), detections: int = 4, **changes: Any
) -> ModelContract:
    """A small model's contract."""
    head = "prompt" if kind is MaskKind.FRAME else "bbox"
    fields = {"image_size_hw": size_hw, "classes": CLASSES, "head": head, "mask_kind": kind, **changes}
    return ModelContract(max_detections=detections, **fields)


def outputs(model: ModelContract, boxes: list[list[float]], scores: list[float], labels: list[int]) -> dict[str, Array]:
    """Graph outputs that hold these detections, padded as a graph pads; masks are all ones."""
    arrays: dict[str, Array] = {name: np.zeros(shape, np.float32) for name, shape in model.output_shapes.items()}
    arrays["labels"] = arrays["labels"].astype(np.int64)
    for slot in range(model.batch):
        for index, (box, score, label) in enumerate(zip(boxes, scores, labels, strict=True)):
            arrays["boxes"][slot, index] = box
            arrays["scores"][slot, index] = score
            arrays["labels"][slot, index] = label
            arrays["masks"][slot, index] = 1
    return arrays


class KnownRuntime:
    """Gives the same outputs for whatever it is fed, and remembers the feeds."""

    def __init__(self, model: ModelContract, answer: dict[str, Array]) -> None:
        self.inputs = tuple(
            TensorSpec(name, np.dtype(np.uint8 if name == "frame" else np.int64), shape)
            for name, shape in model.input_shapes.items()
        )
        self.outputs = tuple(TensorSpec(name, array.dtype, array.shape) for name, array in answer.items())
        self.answer = answer
        self.feeds: list[dict[str, Array]] = []
        self.closed = 0

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The known answer."""
        self.feeds.append({name: array.copy() for name, array in feeds.items()})
        return {name: array.copy() for name, array in self.answer.items()}

    def close(self) -> None:
        """Counts how often it was called."""
        self.closed += 1


def square_detections(size_hw: tuple[int, int] = (40, 50)) -> Detections:
    """Two overlapping rectangles in a frame: an airplane (rows 5-14, columns 10-29), a bridge (rows 10-29, 20-39)."""
    return Detections(
        boxes_xyxy=np.array([[10, 5, 30, 15], [20, 10, 40, 30]], np.float32),
        scores=np.array([0.9, 0.4], np.float32),
        labels=np.array([0, 2]),
        masks=[
            InstanceMask(MaskCrop(5, 10, np.ones((10, 20), np.bool_))),
            InstanceMask(MaskCrop(10, 20, np.ones((20, 20), np.bool_))),
        ],
        classes=CLASSES,
        size_hw=size_hw,
    )


def parity() -> ParityRecord:
    """A parity record as an export writes it."""
    return ParityRecord(
        frames=1,
        tensors=(TensorParity(name="boxes", max_abs_diff=1e-4, tolerance=1e-2),),
        detections=DetectionParity(
            reference=2,
            exported=2,
            matched=2,
            match_iou=0.9,
            max_box_diff_px=0.01,
            max_score_diff=1e-4,
            min_mask_iou=0.99,
        ),
        tolerances={"boxes": 1e-2},
    )


def golden_frame() -> Frame:
    """A frame of 40x50 pixels."""
    frame: Frame = np.random.default_rng(7).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return frame


def small_bundle(
    out: Path,
    *,
    overwrite: bool = False,
    name: str = "small",
    golden: Detections | None = None,
    cut: float | None = None,
    **changes: Any,
) -> Manifest:
    """Write a bundle with two model files and one golden frame, on which `golden`, ending at `cut`, is true."""
    with write_bundle(out, overwrite=overwrite) as draft:
        (draft.path / "model.onnx").write_bytes(b"the graph" * 50)
        (draft.path / "model.bin").write_bytes(bytes(range(256)) * 8)
        draft.add_golden(golden_frame(), square_detections() if golden is None else golden, cut)
        entries: dict[str, Any] = {
            "name": name,
            "target": "onnx",
            "runtime": "onnxruntime",
            "precision": "fp32",
            "contract": contract(),
            "model": "model.onnx",
            "weights": WeightsRecord(name="small.safetensors", sha256="0" * 64),
            "parity": parity(),
            "tools": {"torch": "2.13.0"},
            **changes,
        }
        return draft.seal(**entries)
