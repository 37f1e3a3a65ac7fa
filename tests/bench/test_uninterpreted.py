from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rs4d_edge.bench.streams import run_frame
from rs4d_edge.bench.uninterpreted import ImageFeed, UninterpretedPath
from rs4d_edge.errors import FrameError
from rs4d_edge.frames import Frame


class Kept:
    """Keeps what it is fed."""

    size_hw = (8, 16)

    def __init__(self) -> None:
        self.batches: list[Frame] = []
        self.feeds: list[object] = []
        self.closed = 0

    def prepare(self, batch: Frame) -> object:
        self.batches.append(batch.copy())
        return len(self.batches)

    def infer(self, feed: object) -> None:
        self.feeds.append(feed)

    def close(self) -> None:
        self.closed += 1


def test_a_frame_is_fitted_into_the_input_and_nothing_is_found() -> None:
    network = Kept()
    with UninterpretedPath(network) as frames:
        found = run_frame(frames, np.full((4, 4, 3), 200, np.uint8))
        assert (len(found), found.size_hw) == (0, (4, 4))
        taken = found.timings
        assert taken.resize_ms > 0 and taken.infer_ms > 0 and taken.post_ms == 0
        assert taken.total_ms == pytest.approx(taken.resize_ms + taken.infer_ms + taken.mask_ms)
    assert (network.feeds, network.closed) == ([1], 1)
    (batch,) = network.batches
    assert batch.shape == (1, 8, 16, 3)
    assert (batch[0, :, :8] == 200).all() and (batch[0, :, 8:] == 0).all()  # by the rule of bundles: ratio kept, padded


def test_a_frame_that_is_none_is_refused() -> None:
    with pytest.raises(FrameError):
        UninterpretedPath(Kept()).run(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_an_image_is_given_as_the_network_wants_it(dtype: Any, channels_first: bool) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (1, 4, 6, 3), dtype=np.uint8)
    batch[0, 0, 0] = (0, 128, 255)
    fed = ImageFeed((4, 6), dtype, channels_first=channels_first)(batch)
    assert fed.dtype == dtype and fed.flags.c_contiguous
    last = fed.transpose(0, 2, 3, 1) if channels_first else fed
    expected = batch if dtype == np.uint8 else batch / 255
    np.testing.assert_allclose(last.astype(np.float64), expected, atol=1e-3)
