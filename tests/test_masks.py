from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs4d_edge.errors import RuntimeFailure
from rs4d_edge.masks import InstanceMask, MaskCrop, Probabilities, SoftMask, frame_masks, roi_masks
from rs4d_edge.resize import Geometry, fit

Image = npt.NDArray[np.float64]
TIE = 1e-5  # float32 rounding may fall on either side of 0.5 this close to it


def blobs(rows: int, columns: int, seed: int) -> Probabilities:
    """Smooth probabilities with many places near 0.5, some exactly 0 or 1."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.random((rows, columns)), (0, 0), float(rng.choice([0.7, 1.5, 3.0])))
    smooth: Probabilities = np.clip((noise - 0.5) * rng.choice([3.0, 12.0]) + 0.5, 0, 1).astype(np.float32)
    return smooth


def linear(values: Image, at: Image, outside: str) -> Image:
    """Linear samples along the first axis at float positions, in float64: the definition, one sample after another."""
    result = np.zeros((len(at), *values.shape[1:]))
    for row, place in enumerate(at):
        if outside == "edge":
            place = min(max(place, 0.0), len(values) - 1.0)
        low = int(np.floor(place))
        for index, weight in ((low, low + 1 - place), (low + 1, place - low)):
            if 0 <= index < len(values):
                result[row] += weight * values[index]
    return result


def roi_oracle(soft: Probabilities, box: npt.NDArray[np.float32], frame_hw: tuple[int, int]) -> Image:
    x0, y0, x1, y1 = (float(value) for value in box)
    rows = (np.arange(frame_hw[0]) + 0.5 - y0) / (y1 - y0) * soft.shape[0] - 0.5
    columns = (np.arange(frame_hw[1]) + 0.5 - x0) / (x1 - x0) * soft.shape[1] - 0.5
    return linear(linear(soft.astype(np.float64), rows, "zero").T, columns, "zero").T


def resize_oracle(values: Image, size_hw: tuple[int, int]) -> Image:
    for size in size_hw:
        at = (np.arange(size) + 0.5) * len(values) / size - 0.5
        values = linear(values, at, "edge").T
    return values


def frame_oracle(soft: Probabilities, geometry: Geometry) -> Image:
    padded = resize_oracle(soft.astype(np.float64), geometry.input_hw)
    (height, width), (rows, columns) = geometry.frame_hw, geometry.valid_hw
    part = padded[: int(height * (rows / height)), : int(width * (columns / width))]
    return resize_oracle(part, geometry.frame_hw)


def full_size(mask: SoftMask, frame_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    full = np.zeros(frame_hw, np.bool_)
    mask.render().paste(full)
    return full


def assert_same_but_for_ties(found: npt.NDArray[np.bool_], oracle: Image) -> None:
    wrong = (found != (oracle >= 0.5)) & (np.abs(oracle - 0.5) > TIE)
    assert not wrong.any(), f"{int(wrong.sum())} pixels differ, first at {np.argwhere(wrong)[0]}"


@settings(max_examples=120, deadline=None)
@given(
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.floats(-40, 120),
    st.floats(-40, 120),
    st.floats(0.3, 150),
    st.floats(0.3, 150),
    st.integers(0, 2**32 - 1),
)
def test_a_mask_over_its_box_is_pasted_as_published(
    frame_hw: tuple[int, int], x: float, y: float, width: float, height: float, seed: int
) -> None:
    box = np.array([x, y, x + width, y + height], np.float32)
    soft = blobs(28, 28, seed)
    (mask,) = roi_masks(soft[None], box[None], frame_hw)
    assert_same_but_for_ties(full_size(mask, frame_hw), roi_oracle(soft, box, frame_hw))


def test_pasting_agrees_with_torch_s_grid_sample() -> None:
    torch: Any = pytest.importorskip("torch")
    soft, box, frame_hw = blobs(28, 28, 3), np.array([10.3, 5.7, 95.1, 61.2], np.float32), (80, 90)
    rows = (torch.arange(80, dtype=torch.float64) + 0.5 - float(box[1])) / float(box[3] - box[1]) * 2 - 1
    columns = (torch.arange(90, dtype=torch.float64) + 0.5 - float(box[0])) / float(box[2] - box[0]) * 2 - 1
    grid = torch.stack([columns[None].expand(80, 90), rows[:, None].expand(80, 90)], -1)[None]
    plane = torch.from_numpy(soft.astype(np.float64))[None, None]
    oracle = torch.nn.functional.grid_sample(plane, grid, align_corners=False)[0, 0].numpy()
    (mask,) = roi_masks(soft[None], box[None], frame_hw)
    assert_same_but_for_ties(full_size(mask, frame_hw), oracle)


def test_a_whole_box_is_set_to_its_last_pixel_and_no_further() -> None:
    ones = np.ones((28, 28), np.float32)
    (mask,) = roi_masks(ones[None], np.array([[2, 3, 7, 9]], np.float32), (20, 20))
    crop = mask.render()
    assert (crop.top, crop.left, crop.bits.shape, crop.area) == (3, 2, (6, 5), 30)


def test_a_large_box_is_computed_in_blocks_that_fit_together() -> None:
    soft, box, frame_hw = blobs(28, 28, 5), np.array([-30, 20, 1500, 700], np.float32), (720, 1400)
    (mask,) = roi_masks(soft[None], box[None], frame_hw)
    columns = np.arange(0, 1400, 7)
    oracle = roi_oracle(soft, box, frame_hw)[:, columns]
    assert_same_but_for_ties(full_size(mask, frame_hw)[:, columns], oracle)


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [5, 5, 5.2, 5.3], [-9, -9, -2, -2], [30, 2, 40, 9]])
def test_a_box_without_pixels_of_the_frame_gives_an_empty_crop(box: list[float]) -> None:
    (mask,) = roi_masks(np.ones((1, 28, 28), np.float32), np.array([box], np.float32), (20, 20))
    assert mask.render().area == 0


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.sampled_from([(64, 96), (64, 64), (128, 64)]),
    st.integers(0, 2**32 - 1),
)
def test_a_mask_over_the_frame_is_resized_twice_as_published(
    frame_hw: tuple[int, int], input_hw: tuple[int, int], seed: int
) -> None:
    geometry = fit(frame_hw, input_hw)
    soft = blobs(input_hw[0] // 4, input_hw[1] // 4, seed)
    if seed % 2:  # one object, so that only a window is kept
        soft[: seed % 11] = 0
        soft[:, seed % 13 + 5 :] = 0
    (mask,) = frame_masks(soft[None], np.array([0]), geometry)
    assert_same_but_for_ties(full_size(mask, frame_hw), frame_oracle(soft, geometry))


def test_resizing_twice_agrees_with_torch_s_interpolate() -> None:
    torch: Any = pytest.importorskip("torch")
    geometry = fit((333, 250), (256, 256))
    soft = blobs(64, 64, 11)
    plane = torch.from_numpy(soft.astype(np.float64))[None, None]
    resize = torch.nn.functional.interpolate
    padded = resize(plane, size=(256, 256), mode="bilinear", align_corners=False)
    rows, columns = int(333 * (256 / 333)), int(250 * (192 / 250))
    oracle = resize(padded[:, :, :rows, :columns], size=(333, 250), mode="bilinear", align_corners=False)[0, 0].numpy()
    (mask,) = frame_masks(soft[None], np.array([0]), geometry)
    assert_same_but_for_ties(full_size(mask, (333, 250)), oracle)


def test_a_small_object_in_a_large_frame_is_a_small_crop_that_borrows_nothing() -> None:
    soft = np.zeros((3, 256, 256), np.float32)
    soft[1, 100:104, 50:60] = 1
    (mask,) = frame_masks(soft, np.array([1]), fit((1024, 1024), (1024, 1024)))
    soft[:] = 0  # a runtime may write its next answer into the same memory
    crop = mask.render()
    assert crop.area == 16 * 40 - 4  # the corner pixels see 0.625 * 0.625 of a one
    assert crop.bits.shape[0] <= 16 + 8 and crop.bits.shape[1] <= 40 + 8


def test_an_object_in_the_padding_gives_an_empty_crop() -> None:
    soft = np.zeros((1, 16, 16), np.float32)
    soft[0, 12:, :] = 1
    (mask,) = frame_masks(soft, np.array([0]), fit((20, 64), (64, 64)))
    assert mask.render().area == 0


def test_a_map_below_the_threshold_gives_an_empty_crop() -> None:
    (mask,) = frame_masks(np.full((1, 16, 16), 0.49, np.float32), np.array([0]), fit((64, 64), (64, 64)))
    assert mask.render().area == 0


def test_nan_in_masks_is_an_error() -> None:
    geometry = fit((64, 64), (64, 64))
    for value in (np.nan, np.inf):
        maps = np.ones((1, 28, 28), np.float32)
        maps[0, 3, 3] = value
        with pytest.raises(RuntimeFailure, match="NaN"):
            roi_masks(maps, np.array([[0, 0, 9, 9]], np.float32), (64, 64))
    for soft in (np.full((1, 16, 16), np.nan, np.float32), np.ones((1, 16, 16), np.float32)):
        soft[0, 8, 8] = np.nan
        with pytest.raises(RuntimeFailure, match="NaN"):
            frame_masks(soft, np.array([0]), geometry)


def test_a_mask_is_rendered_once() -> None:
    class Counting:
        calls = 0

        def render(self) -> MaskCrop:
            self.calls += 1
            return MaskCrop(1, 2, np.ones((3, 4), np.bool_))

    soft = Counting()
    mask = InstanceMask(soft)
    assert soft.calls == 0
    assert mask.crop() is mask.crop()
    assert soft.calls == 1


def test_masks_of_the_published_implementation_are_met_pixel_by_pixel(fixtures_dir: Path) -> None:
    with np.load(fixtures_dir / "detector_bbox.npz") as published:
        soft = (1 / (1 + np.exp(-published["mask_logits_selected"].astype(np.float64)))).astype(np.float32)
        boxes, (count, height, width) = published["boxes"], published["masks_shape"].tolist()
        expected = np.unpackbits(published["masks_packed"], axis=-1)[..., :width].astype(np.bool_)
    masks = roi_masks(soft, boxes, (height, width))
    found = np.stack([full_size(mask, (height, width)) for mask in masks])
    assert found.shape == (count, height, width)
    assert np.count_nonzero(found != expected) == 0
