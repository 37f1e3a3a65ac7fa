from __future__ import annotations

import numpy as np
import pytest

from rs4d_edge.drawing import class_color, draw_boxes, draw_masks
from rs4d_edge.masks import MaskCrop


def test_the_colours_of_twenty_classes_are_far_apart_and_stay() -> None:
    colors = np.array([class_color(label) for label in range(20)], float)
    distances = np.abs(colors[:, None] - colors[None]).sum(-1)
    assert distances[~np.eye(20, dtype=bool)].min() > 25
    assert class_color(3) == class_color(3)
    assert class_color(3, "BGR") == class_color(3)[::-1]


def test_a_mask_tints_its_pixels_and_no_others() -> None:
    canvas = np.full((60, 80, 3), 100, np.uint8)
    disc = np.hypot(*np.mgrid[-10:11, -10:11]) <= 9
    draw_masks(canvas, [(MaskCrop(20, 30, disc), (255, 0, 0))])
    changed = (canvas != 100).any(-1)
    full = np.zeros((60, 80), bool)
    full[20:41, 30:51] = disc
    assert changed[full].all()
    near = np.zeros_like(full)
    near[18:43, 28:53] = True  # the outline is smoothed over a pixel or two
    assert not changed[~near].any()
    assert canvas[30, 40].tolist() == [162, 60, 60]  # 0.6 * 100 + 0.4 * (255, 0, 0)


def test_an_empty_crop_draws_nothing() -> None:
    canvas = np.full((10, 10, 3), 100, np.uint8)
    draw_masks(canvas, [(MaskCrop(0, 0, np.zeros((0, 0), bool)), (255, 0, 0))])
    assert (canvas == 100).all()


@pytest.mark.parametrize("box", [[0, 0, 5, 5], [90, 70, 100, 80], [40, 30, 60, 50], [0, 0, 100, 80]])
@pytest.mark.parametrize("size", [(80, 100), (12, 9), (900, 1600)])
def test_labels_stay_in_the_frame_wherever_the_box_is(box: list[float], size: tuple[int, int]) -> None:
    canvas = np.zeros((*size, 3), np.uint8)
    draw_boxes(canvas, np.array([box], np.float32), ["storage tank 0.99"], [(255, 255, 0)])
    assert canvas.any()
