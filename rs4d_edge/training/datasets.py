"""Loaders of the data sets that RS4D is trained on: COCO instance annotations (NWPU, SSDD) and WHU's label masks.

Sources: NWPU VHR-10 with COCO masks, SSDD (Zhang et al., 2021), WHU building data set (Ji et al., 2018).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from faster_coco_eval.core import mask as coco_mask

from rs4d_edge.errors import DataError
from rs4d_edge.training.instances import ImageRecord, Instance, InstanceDataset, instance_from_bitmap

NEEDED = {
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
WHU_CLASSES = ("building",)
WHU_MIN_PIXELS = 16  # components below this are specks of the label mask, not buildings


def read_annotations(path: Path) -> dict[str, Any]:
    """A COCO annotation file's content, checked for the three lists that make it one."""
    try:
        content: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read the annotation file {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); a COCO annotation file is expected") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path} is no COCO annotation file: it has no list {key!r}")
        for place, entry in enumerate(content[key]):
            lacking = [name for name in NEEDED[key] if not isinstance(entry, dict) or name not in entry]
            if lacking:
                raise DataError(f"{path} is no COCO annotation file: {key}[{place}] has no {', '.join(lacking)}")
    checked: dict[str, Any] = content
    return checked


def load_coco(
    annotations: Path, images_dir: Path, *, missing: Literal["error", "skip"] = "error", name: str | None = None
) -> InstanceDataset:
    """A data set in COCO format, labels 0-based in the order of the category ids.

    Crowd regions are left out: they name no single instance. `missing="skip"` leaves out the images that are not in
    `images_dir` (and counts them in `skipped`), otherwise they are a `DataError` that names the first few.
    """
    content = read_annotations(annotations)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    labels = {category["id"]: label for label, category in enumerate(categories)}
    present, absent = split_by_presence(content["images"], images_dir)
    if absent and missing == "error":
        raise DataError(missing_images_message(annotations, images_dir, absent, len(content["images"])))
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    records = []
    for image in present:
        size_hw = (int(image["height"]), int(image["width"]))
        found = [_instance(annotation, labels, size_hw, annotations) for annotation in by_image[image["id"]]]
        instances = tuple(instance for instance in found if instance is not None)
        records.append(ImageRecord(images_dir / image["file_name"], int(image["id"]), size_hw, instances))
    if not records:
        raise DataError(f"{annotations} names no image that exists in {images_dir}")
    classes = tuple(str(category["name"]) for category in categories)
    return InstanceDataset(name or annotations.stem, classes, tuple(records), len(absent))


def split_by_presence(
    images: Sequence[dict[str, Any]], images_dir: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """COCO image entries whose file is in `images_dir`, and those whose file is not."""
    if not images_dir.is_dir():
        raise DataError(f"the image folder {images_dir} does not exist")
    names = {path.name for path in images_dir.iterdir()}
    present: list[dict[str, Any]] = []
    absent: list[dict[str, Any]] = []
    for image in images:
        name = str(image["file_name"])
        here = name in names or ("/" in name and (images_dir / name).is_file())
        (present if here else absent).append(image)
    return present, absent


def missing_images_message(annotations: Path, images_dir: Path, absent: Sequence[Mapping[str, Any]], total: int) -> str:
    """The one wording for annotated images that are not there."""
    first = ", ".join(str(image["file_name"]) for image in absent[:3]) + (", ..." if len(absent) > 3 else "")
    return (
        f"{len(absent)} of the {total} images of {annotations} are not in {images_dir} ({first}); "
        "name the right image folder, or leave them out on purpose with missing='skip' (--skip-missing)"
    )


def _instance(
    annotation: Mapping[str, Any], labels: Mapping[int, int], size_hw: tuple[int, int], source: Path
) -> Instance | None:
    if annotation.get("iscrowd", 0):
        return None
    category = annotation.get("category_id")
    if not isinstance(category, int) or category not in labels:
        raise DataError(f"annotation {annotation.get('id')} of {source} has the unknown category {category}")
    shape = annotation.get("segmentation")
    if isinstance(shape, dict):
        return instance_from_bitmap(labels[category], decode_rle(shape, size_hw, source))
    if not isinstance(shape, list) or not shape:
        raise DataError(f"annotation {annotation.get('id')} of {source} has no segmentation: masks are needed to train")
    polygons = tuple(np.asarray(ring, np.float64).reshape(-1, 2) for ring in shape if len(ring) >= 6)
    if not polygons:
        return None
    x, y, width, height = (float(value) for value in annotation["bbox"])
    return Instance(labels[category], (x, y, x + width, y + height), polygons)


def decode_rle(shape: dict[str, Any], size_hw: tuple[int, int], source: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A COCO run-length mask, compressed or not, as (H, W) uint8."""
    if tuple(shape["size"]) != size_hw:
        raise DataError(f"a mask of {source} has the size {shape['size']}, its image {list(size_hw)}")
    compressed = shape if isinstance(shape["counts"], str | bytes) else coco_mask.frPyObjects(shape, *size_hw)
    return np.asarray(coco_mask.decode(compressed), np.uint8)


def load_whu(root: Path, split: Literal["train", "val", "test"]) -> InstanceDataset:
    """WHU building: `root/imgs/SPLIT/{image,label}/*.tif`; each 8-connected component of a label is a building."""
    folder = root / "imgs" / split
    images = sorted((folder / "image").glob("*.tif"))
    if not images:
        raise DataError(f"no .tif image in {folder / 'image'}: expected WHU's layout imgs/{split}/image and label")
    records = []
    for index, path in enumerate(images):
        label_path = folder / "label" / path.name
        label = cv2.imread(str(label_path), cv2.IMREAD_GRAYSCALE)
        if label is None:
            raise DataError(f"{path} has no readable label mask {label_path}")
        records.append(ImageRecord(path, index, (label.shape[0], label.shape[1]), _components(label)))
    return InstanceDataset(f"whu-{split}", WHU_CLASSES, tuple(records))


def _components(label: np.ndarray[Any, np.dtype[Any]]) -> tuple[Instance, ...]:
    count, numbered, boxes, _ = cv2.connectedComponentsWithStats((label > 0).astype(np.uint8), connectivity=8)
    found = []
    for number in range(1, count):
        x, y, width, height, pixels = (int(value) for value in boxes[number])
        if pixels < WHU_MIN_PIXELS:
            continue
        crop = (numbered[y : y + height, x : x + width] == number).astype(np.uint8)
        instance = instance_from_bitmap(0, crop, (x, y))
        if instance is not None:
            found.append(instance)
    return tuple(found)
