"""`rs4d-predict`: find objects in image files with a bundle.

This module works through the files and needs no more than the device library; `predict_terminal` is its command line,
which needs typer and rich.
"""

from __future__ import annotations

import glob
import json
import os
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from rs4d_edge.detections import Detections
from rs4d_edge.errors import InputError, RS4DError
from rs4d_edge.frames import IMAGE_SUFFIXES, Frame, read_image
from rs4d_edge.predictor import Predictor

SAVABLE = ("overlay", "coco")
COCO_NAME = "detections.coco.json"


class FileResult(NamedTuple):
    """What became of one file: detections, or the reason why there are none."""

    path: Path
    detections: Detections | None
    error: str | None


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from rs4d_edge.commands.predict_terminal import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(
            f"rs4d-predict needs the package {error.name}, which is not installed. Every engine's extra brings it: "
            'pip install "rs4d-edge[onnx]" or "rs4d-edge[openvino]"; or: pip install typer rich'
        )
    app()


def find_images(sources: Sequence[str]) -> list[Path]:
    """Files that the sources name, each once: files as they are, images below folders, matches of globs (`**` too).

    A file that was named itself is listed whatever its suffix, even if it does not exist, so that it is reported.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            matches = [each for each in sorted(path.rglob("*")) if each.suffix.lower() in IMAGE_SUFFIXES]
        elif not path.exists() and glob.has_magic(source):
            matches = [Path(each) for each in sorted(glob.glob(source, recursive=True))]
        else:
            found[path] = None
            continue
        found.update(dict.fromkeys(each for each in matches if each.is_file()))
    return list(found)


def parse_save(text: str) -> frozenset[str]:
    """The comma-separated kinds of output; an unknown one raises `InputError`."""
    kinds = frozenset(kind.strip() for kind in text.split(",") if kind.strip())
    unknown = sorted(kinds - set(SAVABLE))
    if unknown or not kinds:
        raise InputError(f"--save {text!r} is unknown: name one or more of {', '.join(SAVABLE)}, separated by commas")
    return kinds


def predict_files(predictor: Predictor, paths: Sequence[Path], saver: Saver | None) -> Iterator[FileResult]:
    """Work through the files; one that fails is yielded with its error, and the rest goes on."""
    for path in paths:
        try:
            frame = read_image(path)
            detections = predictor.run(frame, color="BGR")
        except RS4DError as error:
            yield FileResult(path, None, str(error))
            continue
        if saver is not None:
            saver.add(path, frame, detections)
        yield FileResult(path, detections, None)


def count_classes(detections: Detections) -> list[tuple[str, int]]:
    """How many objects of each class, the most frequent first."""
    return Counter(detections.class_names).most_common()


class Saver:
    """Writes overlays and one COCO file into a folder. Nothing is ever half written: names are given at the end."""

    def __init__(self, out: Path, kinds: frozenset[str], classes: Sequence[str]) -> None:
        if out.exists() and not out.is_dir():
            raise InputError(f"--out {out} is a file: name a folder")
        out.mkdir(parents=True, exist_ok=True)
        self._out = out
        self._kinds = kinds
        self._overlays: set[str] = set()
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories = [{"id": label + 1, "name": name} for label, name in enumerate(classes)]

    def add(self, path: Path, frame: Frame, detections: Detections) -> None:
        """Save what was found in the frame (BGR) of the file `path`."""
        if "overlay" in self._kinds:
            encoded = cv2.imencode(".jpg", detections.draw(frame, color="BGR"), [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            _write(self._out / self._overlay_name(path), encoded.tobytes())
        if "coco" in self._kinds:
            self._add_coco(path, detections)

    def finish(self) -> None:
        """Write the COCO file: `images`, `categories`, and results as `annotations`, which pycocotools loads."""
        if "coco" in self._kinds:
            document = {"images": self._images, "categories": self._categories, "annotations": self._annotations}
            _write(self._out / COCO_NAME, json.dumps(document, ensure_ascii=False).encode())

    def _add_coco(self, path: Path, detections: Detections) -> None:
        image_id = len(self._images) + 1
        height, width = detections.size_hw
        self._images.append({"id": image_id, "file_name": path.as_posix(), "height": height, "width": width})
        areas = [crop.area for crop in detections.mask_crops()]
        for result, area in zip(detections.to_coco(image_id=image_id), areas, strict=True):
            self._annotations.append({"id": len(self._annotations) + 1, **result, "area": area, "iscrowd": 0})

    def _overlay_name(self, path: Path) -> str:
        """A file name that no other overlay of this run has, because folders may hold files of one name."""
        name, number = f"{path.stem}.overlay.jpg", 1
        while name.lower() in self._overlays:
            number += 1
            name = f"{path.stem}_{number}.overlay.jpg"
        self._overlays.add(name.lower())
        return name


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
