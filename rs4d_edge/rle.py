"""COCO's run-length encoding of masks, in numpy, byte for byte that of pycocotools.

A mask is read column by column (all rows of column 0, then of column 1, ...) as runs of zeros and ones in turn, zeros
first. From the fourth run on, each length is written as its difference from the one two before; every number is cut
into groups of 5 bits, lowest first, with a sixth bit while more follow, and 48 is added to make it printable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import cv2
import numpy as np
import numpy.typing as npt

from rs4d_edge.errors import InputError

BoolMask = npt.NDArray[np.bool_]
Runs = npt.NDArray[np.int64]
MAX_GROUPS = 13  # 5-bit groups that a 64-bit number can need
OFFSET = 48


class Rle(TypedDict):
    """COCO's compressed form: `size` is [rows, columns] of the whole frame."""

    size: list[int]
    counts: str


def encode(bits: BoolMask, *, top: int = 0, left: int = 0, size_hw: tuple[int, int] | None = None) -> Rle:
    """Encode a mask, or a crop of one whose first pixel lies at (`top`, `left`) of a frame of `size_hw`."""
    return encode_all([(bits, top, left)], size_hw if size_hw is not None else (bits.shape[0], bits.shape[1]))[0]


def encode_all(crops: Sequence[tuple[BoolMask, int, int]], size_hw: tuple[int, int]) -> list[Rle]:
    """Encode many crops (bits, top, left) of frames of one size; faster than one by one."""
    runs = [crop_runs(bits, top, left, size_hw) for bits, top, left in crops]
    return [Rle(size=[int(size_hw[0]), int(size_hw[1])], counts=counts) for counts in _to_strings(runs)]


def decode(rle: Rle) -> BoolMask:
    """The whole mask, bool (rows, columns); malformed counts raise `InputError`."""
    rows, columns = rle["size"]
    runs = parse_runs(rle["counts"])
    if int(runs.sum()) != rows * columns or (runs < 0).any():
        raise InputError(f"the RLE covers {int(runs.sum())} pixels, its size {rows}x{columns} has {rows * columns}")
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(columns, rows).T)


def crop_runs(bits: BoolMask, top: int, left: int, size_hw: tuple[int, int]) -> Runs:
    """Lengths of the runs of a whole frame that is False outside the crop."""
    rows, columns = bits.shape
    height, width = size_hw
    if top < 0 or left < 0 or top + rows > height or left + columns > width:
        raise InputError(f"a crop of {rows}x{columns} at ({top}, {left}) does not lie in a frame of {height}x{width}")
    if rows == 0 or columns == 0:
        return np.array([height * width], dtype=np.int64)
    # A False in front and one False below each column make every change of value a change within the flat array.
    flat = np.zeros(columns * (rows + 1) + 1, dtype=np.uint8)
    cv2.transpose(bits.view(np.uint8), dst=flat[1:].reshape(columns, rows + 1)[:, :rows])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    column, row = np.divmod(changes, rows + 1)
    ends = (column + left) * height + (row + top)
    if rows == height:  # a run that goes on in the next column was cut by the False between them: join it again
        cut = np.flatnonzero(ends[1:] == ends[:-1])
        ends = np.delete(ends, np.concatenate([cut, cut + 1]))
    total = height * width
    last = [] if len(ends) and ends[-1] == total else [total]
    edges: Runs = np.concatenate([[0], ends, last]).astype(np.int64)
    lengths: Runs = edges[1:] - edges[:-1]
    return lengths


def _to_strings(runs: Sequence[Runs]) -> list[str]:
    if not runs:
        return []
    values = np.concatenate([_differences(lengths) for lengths in runs])
    groups = np.zeros((len(values), MAX_GROUPS), dtype=np.uint8)
    lengths = np.zeros(len(values), dtype=np.int64)
    rest, pending = values, np.arange(len(values))
    for group in range(MAX_GROUPS):
        low = rest & 31
        rest = rest >> 5
        more = np.where(low & 16, rest != -1, rest != 0)
        groups[pending, group] = low + 32 * more + OFFSET
        lengths[pending] = group + 1
        rest, pending = rest[more], pending[more]
        if not len(pending):
            break
    text = groups[np.arange(MAX_GROUPS) < lengths[:, None]].tobytes().decode("ascii")
    ends = np.cumsum(lengths)[np.cumsum([len(each) for each in runs]) - 1].tolist()
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _differences(lengths: Runs) -> Runs:
    values: Runs = lengths.copy()
    values[3:] -= lengths[1:-2]
    return values


def parse_runs(counts: str) -> Runs:
    """Run lengths of a compressed COCO string."""
    try:
        codes = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - OFFSET
    except UnicodeEncodeError as error:
        raise InputError("the RLE's counts hold characters that are not ASCII") from error
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise InputError(f"the RLE's counts {counts[:20]!r}... are not a whole compressed COCO string")
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() >= MAX_GROUPS:
        raise InputError(f"the RLE's counts {counts[:20]!r}... hold a number of more than {MAX_GROUPS} groups")
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    values: Runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = (codes[ends] & 16) != 0
    values[negative] -= np.int64(1) << (5 * (ends - starts + 1))[negative]
    for parity in (1, 2):  # from the fourth run on, each is a difference from the one two before
        values[parity::2] = np.cumsum(values[parity::2])
    return values
