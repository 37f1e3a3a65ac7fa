from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask

from rs4d_edge.errors import DataError
from rs4d_edge.reference.config import NWPU_CLASSES
from rs4d_edge.training.batches import read_source
from rs4d_edge.training.datasets import load_coco, load_whu
from tests.training.tiny_data import write_tiny_coco


def edited(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """The tiny set with the first annotation changed; a value of None takes the key away."""
    annotations, images = write_tiny_coco(folder)
    content = json.loads(annotations.read_text())
    first = {**content["annotations"][0], **changes}
    content["annotations"][0] = {key: value for key, value in first.items() if value is not None}
    annotations.write_text(json.dumps(content))
    return annotations, images


def test_polygons_and_labels_in_the_order_of_category_ids(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    dataset = load_coco(annotations, images)
    entries = json.loads(annotations.read_text())
    assert dataset.classes == ("square", "bar")  # ids 10 and 20, listed the other way round
    assert (len(dataset.records), dataset.instance_count, dataset.skipped) == (4, 8, 0)
    square, bar = dataset.records[0].instances
    assert (square.label, bar.label) == (0, 1)
    x, y, width, height = entries["annotations"][0]["bbox"]
    assert square.box_xyxy == (x, y, x + width, y + height)
    assert square.polygons[0].tolist() == np.reshape(entries["annotations"][0]["segmentation"], (-1, 2)).tolist()


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths_give_the_mask(tmp_path: Path, compressed: bool) -> None:
    bitmap = np.zeros((96, 128), np.uint8)
    bitmap[20:40, 30:70] = 1
    bitmap[25:30, 40:50] = 0  # a hole
    rle = coco_mask.encode(np.asfortranarray(bitmap))
    if compressed:
        shape: dict[str, Any] = {"size": rle["size"], "counts": rle["counts"].decode()}
    else:
        flat = np.concatenate([[0], bitmap.flatten(order="F"), [2]])
        changes = np.flatnonzero(np.diff(flat)).tolist()  # where runs end; the first run is of zeros
        shape = {"size": [96, 128], "counts": np.diff([0, *changes]).tolist()}
    instance = load_coco(*edited(tmp_path, segmentation=shape)).records[0].instances[0]
    assert [*instance.box_xyxy, *instance.bitmap_origin_xy] == [30, 20, 70, 40, 30, 20]
    assert instance.bitmap is not None
    assert np.array_equal(instance.bitmap, bitmap[20:40, 30:70])


def test_crowds_and_lines_are_no_instances(tmp_path: Path) -> None:
    assert load_coco(*edited(tmp_path / "crowd", iscrowd=1)).instance_count == 7
    assert load_coco(*edited(tmp_path / "line", segmentation=[[1, 1, 5, 5]])).instance_count == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category_id": 99}, "unknown category 99"),
        ({"segmentation": None}, "no segmentation"),
        ({"segmentation": []}, "no segmentation"),
        ({"segmentation": {"size": [4, 4], "counts": [16]}}, "size"),
        ({"bbox": None}, "annotations.0. has no bbox"),
        ({"image_id": None}, "annotations.0. has no image_id"),
    ],
)
def test_faulty_annotations_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_coco(*edited(tmp_path, **changes))


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [], "annotations": {}, "categories": []}'])
def test_what_is_no_coco_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json"):
        load_coco(tmp_path / "a.json", tmp_path)


def test_missing_images_are_named_or_skipped(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    (images / "2.png").unlink()
    with pytest.raises(DataError, match=r"1 of the 4 images .* \(2\.png\)"):
        load_coco(annotations, images)
    dataset = load_coco(annotations, images, missing="skip")
    assert (len(dataset.records), dataset.skipped) == (3, 1)
    with pytest.raises(DataError, match="does not exist"):
        load_coco(annotations, tmp_path / "elsewhere")


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    record = load_coco(annotations, images).records[0]
    cv2.imwrite(str(record.path), np.zeros((96, 120, 3), np.uint8))
    with pytest.raises(DataError, match="96x120"):
        read_source(record, 1000)


def test_components_of_a_label_mask_are_buildings(tmp_path: Path) -> None:
    for kind in ("image", "label"):
        (tmp_path / "imgs" / "val" / kind).mkdir(parents=True)
    label = np.zeros((64, 80), np.uint8)
    label[4:14, 6:26] = 255
    label[14:20, 26:30] = 255  # touches the first by a corner: one building
    label[40:50, 50:60] = 1
    label[60:62, 2:4] = 255  # a speck
    cv2.imwrite(str(tmp_path / "imgs/val/label/0.tif"), label)
    cv2.imwrite(str(tmp_path / "imgs/val/image/0.tif"), np.zeros((64, 80, 3), np.uint8))
    dataset = load_whu(tmp_path, "val")
    assert dataset.classes == ("building",)
    boxes = [instance.box_xyxy for instance in dataset.records[0].instances]
    assert boxes == [(6, 4, 30, 20), (50, 40, 60, 50)]
    with pytest.raises(DataError, match=r"no \.tif image"):
        load_whu(tmp_path, "train")
    (tmp_path / "imgs/val/label/0.tif").unlink()
    with pytest.raises(DataError, match="no readable label mask"):
        load_whu(tmp_path, "val")


def test_nwpu_is_read_whole(data_dir: Path) -> None:
    folder = data_dir / "nwpu_vhr10"
    dataset = load_coco(folder / "train.json", folder / "images")
    assert dataset.classes == NWPU_CLASSES
    assert (len(dataset.records), dataset.instance_count) == (520, 3178)
    assert load_coco(folder / "val.json", folder / "images").instance_count == 346


def test_ssdd_is_read_as_far_as_its_images_are_there(data_dir: Path) -> None:
    folder = data_dir / "ssdd"
    files = [folder / "annotations" / f"SSDD_instances_{split}.json" for split in ("train", "val")]
    found = [load_coco(path, folder / "imgs", missing="skip") for path in files if _has_images(path, folder / "imgs")]
    assert sum(len(dataset.records) for dataset in found) == 2
    assert sum(len(dataset.records) + dataset.skipped for dataset in found) in (232, 928, 1160)
    assert {dataset.classes for dataset in found} == {("ship",)}
    assert all(record.instances for dataset in found for record in dataset.records)


def _has_images(path: Path, folder: Path) -> bool:
    return any((folder / image["file_name"]).is_file() for image in json.loads(path.read_text())["images"])


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_whu_instances_cover_the_label_mask(data_dir: Path, split: Any) -> None:
    dataset = load_whu(data_dir / "whu", split)
    assert len(dataset.records) == 2
    for record in dataset.records:
        label = cv2.imread(str(record.path.parents[1] / "label" / record.path.name), cv2.IMREAD_GRAYSCALE)
        assert label is not None
        covered = np.zeros(record.size_hw, np.uint8)
        for instance in record.instances:
            assert instance.bitmap is not None
            (x, y), (height, width) = instance.bitmap_origin_xy, instance.bitmap.shape
            covered[y : y + height, x : x + width] += instance.bitmap
        assert covered.max() <= 1
        assert np.count_nonzero((label > 0) != (covered > 0)) < 100  # specks alone
