from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rs4d_edge.errors import FrameError, InputError
from rs4d_edge.frames import MAX_SIDE, check_color, check_frame, read_image


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ([[1, 2, 3]], "list"),
        (None, "NoneType"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 3), np.uint16), "uint16"),
        (np.zeros((4, 4), np.uint8), "np.repeat"),
        (np.zeros((3, 4, 4), np.uint8), "transpose"),
        (np.zeros((4, 4, 4), np.uint8), r"\[\.\.\., :3\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), "one frame of the batch"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((4, 0, 3), np.uint8), "empty"),
        (np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (1, MAX_SIDE + 1, 3)), "tiles"),
    ],
)
def test_frames_that_cannot_be_used_are_refused_with_advice(frame: Any, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        check_frame(frame)


def test_a_good_frame_comes_back_as_the_same_object() -> None:
    frame = np.zeros((1, 1, 3), np.uint8)
    assert check_frame(frame) is frame


def test_colour_orders() -> None:
    assert check_color("RGB") == "RGB" and check_color("BGR") == "BGR"
    with pytest.raises(InputError, match="'rgb'"):
        check_color("rgb")


def write(path: Path, image: np.ndarray[Any, Any]) -> Path:
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


def test_colour_images_are_read_as_bgr(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(write(tmp_path / "ein Bild — 図.png", image)), image)


def test_grey_alpha_and_16_bit_images_follow_one_rule(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    read = read_image(write(tmp_path / "grey.png", grey))
    np.testing.assert_array_equal(read, np.repeat(grey[..., None], 3, axis=2))

    four = np.random.default_rng(0).integers(0, 256, (3, 4, 4), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(write(tmp_path / "alpha.png", four)), four[..., :3])

    deep = np.array([[0, 257, 128, 129, 65535]], np.uint16)
    read = read_image(write(tmp_path / "deep.png", deep))
    assert read[0, :, 0].tolist() == [0, 1, 0, 1, 255]  # divided by 257, rounded
    assert read.dtype == np.uint8 and read.shape == (1, 5, 3)


def test_files_that_are_not_images_are_named(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.png", tmp_path / "text.jpg"
    empty.write_bytes(b"")
    text.write_text("not an image")
    cut = write(tmp_path / "cut.png", np.zeros((50, 50, 3), np.uint8))
    cut.write_bytes(cut.read_bytes()[:20])
    for path in (empty, text, cut, tmp_path / "missing.png", tmp_path):
        with pytest.raises(FrameError, match=str(path.name)):
            read_image(path)


def test_float_images_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "float.tiff", np.zeros((3, 3), np.float32))
    with pytest.raises(FrameError, match="float32"):
        read_image(path)
