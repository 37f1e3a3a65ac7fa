from __future__ import annotations

import pytest

from rs4d_edge.bench.beside import FEWEST_ROUNDS, MOST_ROUNDS, over_bundle, over_text
from tests.bench.stand_ins import CountedPath
from tests.stand_ins import golden_frame


def test_a_peer_is_told_over_the_bundle_in_turns() -> None:
    bundle, peer = CountedPath(infer_ms=1e6), CountedPath(infer_ms=2.5e6)
    found = over_bundle(lambda: bundle, lambda: peer, golden_frame(), 0.0)
    assert found["ratio"] == pytest.approx(2.5, rel=0.01)  # rendering, which is timed, takes next to nothing
    assert found["least"] <= found["ratio"] <= found["most"]
    assert found["rounds"] == FEWEST_ROUNDS
    assert (peer.runs, bundle.runs) == (FEWEST_ROUNDS + 1, 2 * (FEWEST_ROUNDS + 1))  # with a round that does not count
    assert (peer.closed, bundle.closed) == (1, 1)


def test_what_slows_the_machine_down_is_not_in_the_ratio() -> None:
    bundle, peer = CountedPath(), CountedPath()

    def clock() -> float:
        """With each round everything takes longer."""
        bundle.infer_ms = peer.infer_ms = 1e6 * (1 + peer.runs)
        return 0.0

    found = over_bundle(lambda: bundle, lambda: peer, golden_frame(), 1.0, clock=clock)
    assert found["rounds"] == MOST_ROUNDS
    assert found["least"] == pytest.approx(1, rel=0.02) and found["most"] == pytest.approx(1, rel=0.02)


def test_a_ratio_is_told_with_its_spread() -> None:
    found = {"ratio": 29.4567, "least": 28.0, "most": 1234.5, "label": "nano"}
    assert over_text(found) == "29.5 (28 to 1.23e+03) of nano"
