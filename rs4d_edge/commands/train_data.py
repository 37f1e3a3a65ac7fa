"""The data of `rs4d-train`: which images to learn from, and which to measure on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from rs4d_edge.errors import InputError
from rs4d_edge.evaluation.coco import evaluate
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.runtimes.torch_runtime import TorchRuntime
from rs4d_edge.training.datasets import load_coco, load_whu
from rs4d_edge.training.instances import InstanceDataset
from rs4d_edge.training.trainer import Evaluate

NWPU_FOLDER = "nwpu_vhr10"


def open_datasets(
    data: Path | None,
    annotations: Path | None,
    images: Path | None,
    val_annotations: Path | None,
    val_images: Path | None,
    whu: Path | None,
    skip_missing: bool,
) -> tuple[InstanceDataset, tuple[Path, Path] | None]:
    """The training data and, where there is one, the (annotations, images) to evaluate on."""
    missing: Literal["error", "skip"] = "skip" if skip_missing else "error"
    validation = None
    if val_annotations is not None or val_images is not None:
        if val_annotations is None or val_images is None:
            raise InputError("--val-annotations and --val-images belong together: give both or neither")
        validation = (val_annotations, val_images)
    if whu is not None:
        return load_whu(whu, "train"), validation
    if annotations is not None or images is not None:
        if annotations is None or images is None:
            raise InputError("--annotations and --images belong together: give both")
        return load_coco(annotations, images, missing=missing), validation
    root = data or (Path(os.environ["RS4D_DATA"]) if os.environ.get("RS4D_DATA") else None)
    if root is None:
        raise InputError("no data: give --data DIR, --annotations with --images, --whu DIR, or set RS4D_DATA")
    folder = root / NWPU_FOLDER if (root / NWPU_FOLDER).is_dir() else root
    dataset = load_coco(folder / "train.json", folder / "images", missing=missing, name=f"{folder.name}-train")
    if validation is None and (folder / "val.json").is_file():
        validation = (folder / "val.json", folder / "images")
    return dataset, validation


def evaluator(validation: tuple[Path, Path] | None, skip_missing: bool) -> Evaluate | None:
    """Box and mask AP of a model on (annotations, images); None without them."""
    if validation is None:
        return None
    annotations, images = validation

    def run(model: RS4D) -> dict[str, Any]:
        with Predictor.over(TorchRuntime(model), model.contract) as predictor:
            return evaluate(predictor, annotations, images, skip_missing=skip_missing)

    return run
