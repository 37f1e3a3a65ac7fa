from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs4d_edge import rle
from rs4d_edge.errors import InputError
from rs4d_edge.masks import BoolMask

coco_mask: Any = pytest.importorskip("pycocotools.mask")


def theirs(full: BoolMask) -> tuple[list[int], str]:
    encoded = coco_mask.encode(np.asfortranarray(full.astype(np.uint8)))
    return [int(side) for side in encoded["size"]], encoded["counts"].decode()


@st.composite
def crops(draw: st.DrawFn) -> tuple[BoolMask, int, int, tuple[int, int]]:
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rows = draw(st.sampled_from([height, draw(st.integers(0, height))]))  # a full-height crop joins runs of columns
    columns = draw(st.integers(0, width))
    top, left = draw(st.integers(0, height - rows)), draw(st.integers(0, width - columns))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.random((rows, columns)) < density, top, left, (height, width)


@settings(max_examples=400, deadline=None)
@given(crops())
def test_crops_are_encoded_as_pycocotools_encodes_the_whole_mask(
    crop: tuple[BoolMask, int, int, tuple[int, int]],
) -> None:
    bits, top, left, size_hw = crop
    full = np.zeros(size_hw, np.bool_)
    full[top : top + bits.shape[0], left : left + bits.shape[1]] = bits
    encoded = rle.encode(bits, top=top, left=left, size_hw=size_hw)
    assert (encoded["size"], encoded["counts"]) == theirs(full)
    np.testing.assert_array_equal(rle.decode(encoded), full)


def test_many_at_once_are_the_same_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    crops = [(rng.random((side, 9)) < 0.5, side, 3) for side in range(1, 12)]
    together = rle.encode_all(crops, (40, 30))
    assert together == [rle.encode(bits, top=top, left=left, size_hw=(40, 30)) for bits, top, left in crops]
    assert rle.encode_all([], (40, 30)) == []


def test_long_runs_take_several_groups() -> None:
    full = np.zeros((3000, 2000), np.bool_)
    full[2999, 1999] = full[0, 5] = True
    encoded = rle.encode(full)
    assert (encoded["size"], encoded["counts"]) == theirs(full)
    np.testing.assert_array_equal(rle.decode(encoded), full)


def test_a_view_that_is_not_contiguous_is_encoded_alike() -> None:
    full = np.random.default_rng(1).random((30, 40)) < 0.4
    assert rle.encode(full[::2, 1::3]) == rle.encode(np.ascontiguousarray(full[::2, 1::3]))


def test_a_crop_must_lie_in_its_frame() -> None:
    with pytest.raises(InputError, match="does not lie in a frame"):
        rle.encode(np.ones((3, 3), np.bool_), top=8, left=0, size_hw=(10, 10))


@pytest.mark.parametrize("counts", ["", "P", "~", "µ", "o" * 40 + "0"])
def test_malformed_strings_are_refused(counts: str) -> None:
    with pytest.raises(InputError, match="RLE"):
        rle.decode({"size": [4, 4], "counts": counts})


def test_counts_must_fill_their_size() -> None:
    encoded = rle.encode(np.ones((4, 4), np.bool_))
    with pytest.raises(InputError, match="covers 16 pixels"):
        rle.decode({"size": [4, 5], "counts": encoded["counts"]})
