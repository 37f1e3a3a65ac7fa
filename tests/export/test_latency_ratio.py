"""Two models by turns, on a clock that is made up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from rs4d_edge.export import latency_ratio
from rs4d_edge.export.latency_ratio import LEAST_TURNS, MOST_TURNS, WARM_UP_RUNS, median_ratio
from rs4d_edge.runtimes.contract import Array, TensorSpec


class Clock:
    """Seconds that pass only while a model runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowModel:
    """Takes the next of `durations` each time, over and over; notes what it was fed."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, clock: Clock, *durations: float) -> None:
        self.clock, self.durations, self.fed = clock, durations, list[int]()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.clock.now += self.durations[len(self.fed) % len(self.durations)]
        self.fed.append(int(feeds["x"][0]))
        return {}

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_ratio, "PAUSE_S", 0.0)


FEEDS = [{"x": np.array([number])} for number in range(3)]


def test_it_is_the_ratio_of_medians_and_a_disturbed_run_does_not_count() -> None:
    clock = Clock()
    reference, model = SlowModel(clock, 0.04), SlowModel(clock, 0.03, 0.03, 0.03, 0.9)
    assert median_ratio(model, reference, FEEDS, clock) == pytest.approx(0.75)
    assert len(model.fed) == len(reference.fed) == WARM_UP_RUNS + MOST_TURNS
    assert model.fed == reference.fed and set(model.fed) == {0, 1, 2}


def test_slow_models_get_fewer_turns() -> None:
    clock = Clock()
    reference, model = SlowModel(clock, 10.0), SlowModel(clock, 20.0)
    assert median_ratio(model, reference, FEEDS, clock) == pytest.approx(2.0)
    assert len(model.fed) == WARM_UP_RUNS + LEAST_TURNS
