"""A tiny COCO data set of coloured rectangles, written on the fly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

NAMES = ("square", "bar")
MARGIN = 12  # that a test may move a shape to the right without losing any of it


def write_tiny_coco(
    folder: Path, *, images: int = 4, side: int = 24, size_hw: tuple[int, int] = (96, 128)
) -> tuple[Path, Path]:
    """`images` pictures with one square and one bar each at seeded places; returns (annotation file, image folder)."""
    rng = np.random.default_rng(0)
    images_dir = folder / "images"
    images_dir.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(images):
        picture = rng.integers(60, 90, (*size_hw, 3), dtype=np.uint8)
        for label, (width, height) in enumerate(((side, side), (side, side // 2))):
            x = int(rng.integers(0, size_hw[1] // 2 - width - MARGIN)) + label * size_hw[1] // 2
            y = int(rng.integers(0, size_hw[0] - height))
            picture[y : y + height, x : x + width] = (220, 60, 40) if label == 0 else (40, 60, 220)
            ring = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": 10 * (label + 1),
                    "segmentation": [ring],
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        name = f"{number}.png"
        cv2.imwrite(str(images_dir / name), picture)
        entries.append({"id": number + 1, "file_name": name, "height": size_hw[0], "width": size_hw[1]})
    categories = [{"id": 20, "name": NAMES[1]}, {"id": 10, "name": NAMES[0]}]  # not in id order, on purpose
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))
    return path, images_dir
