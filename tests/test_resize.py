from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs4d_edge.frames import ColorOrder, Frame
from rs4d_edge.resize import FrameResizer, fit

SIDES = st.integers(1, 5000)
INPUT_SIDES = st.sampled_from([64, 96, 512, 640, 1024])


def random_frame(height: int, width: int, seed: int = 0) -> Frame:
    frame: Frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return frame


@pytest.mark.parametrize(
    ("frame_hw", "valid_hw"),
    # int(side * scale + 0.5) by hand: 333 * 1024 / 500 = 681.98 -> 682; 958 * (640 / 1728) = 354.8 -> 355
    [((500, 333), (1024, 682)), ((333, 500), (682, 1024)), ((1024, 1024), (1024, 1024)), ((100, 100), (1024, 1024))],
)
def test_new_sides_follow_the_published_rule(frame_hw: tuple[int, int], valid_hw: tuple[int, int]) -> None:
    assert fit(frame_hw, (1024, 1024)).valid_hw == valid_hw


def test_a_rectangular_input_takes_the_smaller_of_both_scales() -> None:
    assert fit((100, 100), (64, 96)).valid_hw == (64, 64)
    assert fit((958, 1728), (640, 640)).valid_hw == (355, 640)


@given(SIDES, SIDES, INPUT_SIDES, INPUT_SIDES)
def test_the_frame_always_fits_and_touches_one_side(height: int, width: int, rows: int, columns: int) -> None:
    valid = fit((height, width), (rows, columns)).valid_hw
    assert 1 <= valid[0] <= rows and 1 <= valid[1] <= columns
    assert valid[0] == rows or valid[1] == columns


@given(SIDES, SIDES, INPUT_SIDES, st.integers(0, 2**32 - 1))
def test_boxes_come_back_where_they_were(height: int, width: int, side: int, seed: int) -> None:
    geometry = fit((height, width), (side, side))
    boxes = (np.random.default_rng(seed).random((10, 4)) * [width, height, width, height]).astype(np.float32)
    back = geometry.to_frame(geometry.to_input(boxes))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, boxes, rtol=1e-6, atol=1e-5)


@given(SIDES, SIDES, INPUT_SIDES)
def test_the_corner_of_the_frame_is_the_corner_of_its_part_of_the_input(height: int, width: int, side: int) -> None:
    geometry = fit((height, width), (side, side))
    corner = geometry.to_input(np.array([[0, 0, width, height]], np.float32))
    np.testing.assert_allclose(corner[0, 2:], geometry.valid_hw[::-1], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from(["RGB", "BGR"]), st.integers(0, 5))
def test_pixels_are_opencv_s_resize_in_rgb_with_zeros_around(
    height: int, width: int, color: ColorOrder, seed: int
) -> None:
    resizer = FrameResizer((64, 96))
    frame = random_frame(height, width, seed)
    geometry = resizer(frame, color)
    rgb = frame if color == "RGB" else np.ascontiguousarray(frame[..., ::-1])
    rows, columns = geometry.valid_hw
    expected = np.zeros((64, 96, 3), np.uint8)
    expected[:rows, :columns] = cv2.resize(rgb, (columns, rows), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resizer.batch[0], expected)


def test_one_buffer_serves_frames_of_changing_sizes_without_traces_of_older_ones() -> None:
    resizer = FrameResizer((64, 96))
    buffer = resizer.batch
    for shape in ((64, 96), (10, 96), (64, 5), (200, 10), (7, 7), (64, 96)):
        resizer(np.full((*shape, 3), 255, np.uint8), "RGB")
        rows, columns = fit(shape, (64, 96)).valid_hw
        assert buffer[0, :rows, :columns].min() == 255
        assert int(buffer.sum()) == 255 * 3 * rows * columns
    assert resizer.batch is buffer


def test_slots_of_a_batch_do_not_touch_each_other() -> None:
    resizer = FrameResizer((64, 96), batch=2)
    resizer(np.full((64, 96, 3), 9, np.uint8), "RGB", 0)
    resizer(np.full((10, 96, 3), 5, np.uint8), "RGB", 1)
    assert resizer.batch[0].min() == 9
    assert resizer.batch[1, :10].min() == 5 and resizer.batch[1, 10:].max() == 0


@pytest.mark.parametrize("view", ["flipped rows", "flipped columns", "every second", "swapped channels", "crop"])
def test_views_that_are_not_contiguous_give_what_their_copy_gives(view: str) -> None:
    frame = random_frame(50, 70)
    views = {
        "flipped rows": frame[::-1],
        "flipped columns": frame[:, ::-1],
        "every second": frame[::2, ::2],
        "swapped channels": frame[..., ::-1],
        "crop": frame[10:30, 5:66],
    }
    direct, copied = FrameResizer((64, 96)), FrameResizer((64, 96))
    direct(views[view], "BGR")
    copied(np.ascontiguousarray(views[view]), "BGR")
    np.testing.assert_array_equal(direct.batch, copied.batch)


@pytest.mark.parametrize("shape", [(64, 96), (128, 100)])
def test_the_frame_is_only_read(shape: tuple[int, int]) -> None:
    frame = random_frame(*shape)
    frame.setflags(write=False)
    before = frame.copy()
    FrameResizer((64, 96))(frame, "BGR")
    np.testing.assert_array_equal(frame, before)
