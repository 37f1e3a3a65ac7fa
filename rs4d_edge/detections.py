"""What was found in one frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from rs4d_edge import rle
from rs4d_edge.drawing import class_color, draw_boxes, draw_masks
from rs4d_edge.errors import InputError
from rs4d_edge.frames import ColorOrder, Frame, check_color, check_frame
from rs4d_edge.masks import BoolMask, InstanceMask, MaskCrop
from rs4d_edge.timing import StageTimings, Stopwatch

Selection = slice | Sequence[int] | Sequence[bool] | npt.NDArray[np.integer] | npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Detection:
    """One object. `box_xyxy` in pixels of the frame; `label` is the index of `class_name` in the model's classes."""

    box_xyxy: tuple[float, float, float, float]
    score: float
    label: int
    class_name: str
    size_hw: tuple[int, int]
    instance: InstanceMask

    def crop(self) -> MaskCrop:
        """The mask as a crop of the frame."""
        return self.instance.crop()

    def mask(self) -> BoolMask:
        """The mask at the frame's full size, bool (height, width); a new array each time."""
        full = np.zeros(self.size_hw, dtype=np.bool_)
        self.crop().paste(full)
        return full


class Detections:
    """The objects found in one frame, best first.

    `boxes_xyxy` float32 (n, 4), pixels of the frame, clipped to it; `scores` float32 (n,); `labels` int64 (n,), indices
    into `classes`, the model's class names; `class_names`, the name of each of the n objects; `size_hw`, the frame's
    size. Masks are kept as crops of the frame and rendered when first used; full-size ones are made on demand. Objects
    whose box does not reach into the frame (a network can see some in its padding) are not part of the result.
    """

    def __init__(
        self,
        *,
        boxes_xyxy: npt.NDArray[np.floating],
        scores: npt.NDArray[np.floating],
        labels: npt.NDArray[np.integer],
        masks: Sequence[InstanceMask],
        classes: Sequence[str],
        size_hw: tuple[int, int],
        timings: StageTimings | None = None,
    ) -> None:
        self.boxes_xyxy: npt.NDArray[np.float32] = np.asarray(boxes_xyxy, dtype=np.float32).reshape(-1, 4)
        self.scores: npt.NDArray[np.float32] = np.asarray(scores, dtype=np.float32)
        self.labels: npt.NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
        self.classes = tuple(classes)
        self.size_hw = (int(size_hw[0]), int(size_hw[1]))
        self.timings = timings if timings is not None else StageTimings()
        self._masks = tuple(masks)
        counts = {len(self.boxes_xyxy), len(self.scores), len(self.labels), len(self._masks)}
        if len(counts) > 1:
            raise InputError(
                f"{len(self.boxes_xyxy)} boxes, {len(self.scores)} scores, {len(self.labels)} labels and "
                f"{len(self._masks)} masks do not describe the same objects"
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise InputError(f"labels {self.labels.tolist()} must be indices into the {len(self.classes)} classes")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class name of each object."""
        return tuple(self.classes[label] for label in self.labels.tolist())

    def __len__(self) -> int:
        return len(self._masks)

    def __iter__(self) -> Iterator[Detection]:
        return (self._detection(index) for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Detections({len(self)} in a frame of {self.size_hw[0]}x{self.size_hw[1]})"

    @overload
    def __getitem__(self, which: int) -> Detection: ...
    @overload
    def __getitem__(self, which: Selection) -> Detections: ...
    def __getitem__(self, which: int | Selection) -> Detection | Detections:
        """One object by its index, or those of a slice, a sequence of indices, or n booleans, as `Detections`.

        Masks are shared with the result, so that nothing is rendered twice.
        """
        if isinstance(which, int | np.integer):
            if not -len(self) <= which < len(self):
                raise IndexError(f"index {which} is out of range for {len(self)} detections")
            return self._detection(int(which) % len(self))
        index = self._positions(which)
        return Detections(
            boxes_xyxy=self.boxes_xyxy[index],
            scores=self.scores[index],
            labels=self.labels[index],
            masks=[self._masks[position] for position in index.tolist()],
            classes=self.classes,
            size_hw=self.size_hw,
            timings=self.timings,
        )

    def filter(self, *, min_score: float | None = None, classes: Sequence[str | int] | None = None) -> Detections:
        """Those with a score of at least `min_score` and one of `classes` (names or labels)."""
        keep = np.ones(len(self), dtype=np.bool_)
        if min_score is not None:
            keep &= self.scores >= min_score
        if classes is not None:
            keep &= np.isin(self.labels, [self._label_of(each) for each in classes])
        return self[keep]

    def mask_crop(self, index: int) -> MaskCrop:
        """The mask of one object as a crop of the frame; rendered by the first call."""
        watch = Stopwatch()
        crop = self._masks[index].crop()
        self.timings.mask_ms += watch.lap_ms()
        return crop

    def mask_crops(self) -> list[MaskCrop]:
        """The masks of all objects as crops of the frame."""
        watch = Stopwatch()
        crops = [mask.crop() for mask in self._masks]
        self.timings.mask_ms += watch.lap_ms()
        return crops

    def mask(self, index: int) -> BoolMask:
        """The mask of one object at the frame's full size, bool (height, width); a new array each time."""
        full = np.zeros(self.size_hw, dtype=np.bool_)
        self.mask_crop(index).paste(full)
        return full

    def masks(self) -> BoolMask:
        """All masks at full size, bool (n, height, width): n * height * width bytes, so mind large frames."""
        full = np.zeros((len(self), *self.size_hw), dtype=np.bool_)
        for layer, crop in zip(full, self.mask_crops(), strict=True):
            crop.paste(layer)
        return full

    def to_rle(self) -> list[rle.Rle]:
        """All masks in COCO's compressed run-length encoding."""
        crops = [(crop.bits, crop.top, crop.left) for crop in self.mask_crops()]
        return rle.encode_all(crops, self.size_hw)

    def to_coco(self, *, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """COCO results: `image_id`, `category_id`, `bbox` (x, y, width, height), `score`, `segmentation` (RLE).

        `category_ids` gives the category of each label; without it, it is label + 1, as COCO counts.
        """
        categories = range(1, len(self.classes) + 1) if category_ids is None else category_ids
        if len(categories) < len(self.classes):
            raise InputError(f"category_ids has {len(categories)} entries for {len(self.classes)} classes")
        corners = self.boxes_xyxy.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        rows = zip(self.labels.tolist(), boxes, self.scores.tolist(), self.to_rle(), strict=True)
        return [
            {
                "image_id": image_id,
                "category_id": int(categories[label]),
                "bbox": box,
                "score": score,
                "segmentation": segmentation,
            }
            for label, box, score, segmentation in rows
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as values that JSON can hold; `from_dict` reads it again without loss."""
        rows = zip(
            self.boxes_xyxy.tolist(),
            self.scores.tolist(),
            self.labels.tolist(),
            self.class_names,
            self.to_rle(),
            strict=True,
        )
        keys = ("box_xyxy", "score", "label", "class_name", "mask")
        return {
            "size_hw": list(self.size_hw),
            "classes": list(self.classes),
            "detections": [dict(zip(keys, row, strict=True)) for row in rows],
            "timings_ms": self.timings.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Detections:
        """The detections that `to_dict` wrote (their masks come as crops of the whole frame, their timings as 0)."""
        try:
            found = content["detections"]
            masks = [rle.decode(each["mask"]) for each in found]
            return cls(
                boxes_xyxy=np.array([each["box_xyxy"] for each in found], dtype=np.float32).reshape(-1, 4),
                scores=np.array([each["score"] for each in found], dtype=np.float32),
                labels=np.array([each["label"] for each in found], dtype=np.int64),
                masks=[InstanceMask(MaskCrop(0, 0, bits)) for bits in masks],
                classes=content["classes"],
                size_hw=(content["size_hw"][0], content["size_hw"][1]),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise InputError(f"this is not what Detections.to_dict writes: {type(error).__name__} {error}") from error

    def draw(self, frame: Frame, *, color: ColorOrder = "RGB", boxes: bool = True) -> Frame:
        """A copy of the frame, uint8 (h, w, 3) in `color` order, with masks, outlines, boxes, classes and scores."""
        order = check_color(color)
        canvas: Frame = check_frame(frame).copy()
        if canvas.shape[:2] != self.size_hw:
            raise InputError(f"the frame is {canvas.shape[0]}x{canvas.shape[1]}, the detections are of {self.size_hw}")
        colors = [class_color(label, order) for label in self.labels.tolist()]
        draw_masks(canvas, zip(self.mask_crops(), colors, strict=True))
        if boxes:
            names = zip(self.class_names, self.scores.tolist(), strict=True)
            texts = [f"{name.replace('_', ' ')} {score:.2f}" for name, score in names]
            draw_boxes(canvas, self.boxes_xyxy, texts, colors)
        return canvas

    def _detection(self, index: int) -> Detection:
        x0, y0, x1, y1 = self.boxes_xyxy[index].tolist()
        label = int(self.labels[index])
        return Detection(
            box_xyxy=(x0, y0, x1, y1),
            score=float(self.scores[index]),
            label=label,
            class_name=self.classes[label],
            size_hw=self.size_hw,
            instance=self._masks[index],
        )

    def _positions(self, which: Selection) -> npt.NDArray[np.intp]:
        everything: npt.NDArray[np.intp] = np.arange(len(self))
        if isinstance(which, slice):
            return everything[which]
        chosen = np.asarray(which)
        if chosen.size == 0:
            return everything[:0]
        if chosen.dtype != np.bool_ and not np.issubdtype(chosen.dtype, np.integer):
            raise InputError(f"select by integers or booleans, not by {chosen.dtype}")
        if chosen.dtype == np.bool_ and chosen.shape != everything.shape:
            raise InputError(f"{chosen.shape} booleans cannot select from {len(self)} detections")
        positions: npt.NDArray[np.intp] = everything[chosen]
        return positions

    def _label_of(self, name: str | int) -> int:
        if isinstance(name, str):
            if name not in self.classes:
                raise InputError(f"class {name!r} is unknown; the model's classes are {', '.join(self.classes)}")
            return self.classes.index(name)
        return int(name)
