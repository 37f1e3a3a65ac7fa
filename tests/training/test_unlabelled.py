from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rs4d_edge.errors import DataError
from rs4d_edge.frames import Frame, read_image
from rs4d_edge.training import unlabelled
from rs4d_edge.training.unlabelled import INDEX_NAME, list_images
from tests.training.tiny_distillation import write_pictures


def test_unreadable_files_are_left_out_with_their_reason(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "a", 2)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("no image by its name")
    (folder / ".hidden.png").write_bytes(b"passed over")
    found = list_images([folder])
    assert [image.path.name for image in found.images] == ["0.png", "1.png"]
    assert [path.name for path, _ in found.unreadable] == ["broken.png", "empty.jpg"]
    assert "cannot decode" in found.unreadable[0][1] or "not an image" in found.unreadable[0][1]


def test_folders_are_searched_in_depth_and_each_file_counts_once(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a" / "deep", 3)
    assert len(list_images([tmp_path, tmp_path / "a"]).images) == 3
    assert len(list_images([tmp_path], limit=2).images) == 2
    assert [image.path.name for image in list_images([tmp_path], leave_out={"1.png"}).images] == ["0.png", "2.png"]
    with pytest.raises(DataError, match="beside the 3 left out by name"):
        list_images([tmp_path], leave_out={"0.png", "1.png", "2.png"})


def test_nothing_to_learn_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        list_images([tmp_path / "absent"])
    with pytest.raises(DataError, match=r"no image in .* expected files that end in \.png"):
        list_images([tmp_path])
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of the 1 image files"):
        list_images([tmp_path])


def test_a_second_look_reads_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, index = write_pictures(tmp_path / "a", 3), tmp_path / "out" / INDEX_NAME
    first = list_images([folder], index)
    read: list[str] = []

    def watched(path: Path) -> Frame:
        read.append(path.name)
        return read_image(path)

    monkeypatch.setattr(unlabelled, "read_image", watched)
    assert list_images([folder], index) == first
    assert read == []
    shutil.copy(folder / "0.png", folder / "2.png")  # another content, and another time of change
    changed = list_images([folder], index)
    assert read == ["2.png"]
    assert changed.images[2].sha256 == first.images[0].sha256
    assert changed.digest() != first.digest()
    index.write_text("no index\n")
    assert list_images([folder], index) == changed


def test_copies_of_a_picture_stay_on_one_side_of_the_split(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "a", 8)
    for number in range(8):
        shutil.copy(folder / f"{number}.png", folder / f"copy-{number}.png")
    train, held_out = list_images([folder]).split(0.25)
    assert (len(train.images), len(held_out.images)) == (12, 4)
    assert not {image.sha256 for image in train.images} & {image.sha256 for image in held_out.images}
    assert list_images([folder]).split(0.0)[1].images == ()
