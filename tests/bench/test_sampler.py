from __future__ import annotations

from collections.abc import Iterator

import pytest

from rs4d_edge.bench.sampler import Sampler, joules
from rs4d_edge.bench.sources import Source


class Script(Source):
    """Gives what it was told, reading by reading, and the last of it from then on."""

    name, kinds = "script", ("power", "energy", "temperature")

    def __init__(self, *readings: dict[str, float]) -> None:
        self.readings = list(readings)

    def read(self) -> dict[str, float]:
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


class Absent(Source):
    name, kinds, absent = "nowhere", ("clock",), "no clock"

    def read(self) -> dict[str, float]:
        raise AssertionError("read although absent")


def ticks(step: float = 0.5) -> Iterator[float]:
    """Each asking is half a second later, so that samples, which ask twice, are a second apart."""
    now = 0.0
    while True:
        yield now
        now += step


def sampler(*sources: Source, most_rows: int = 600) -> Sampler:
    clock = ticks()
    return Sampler(sources, interval_s=1e6, most_rows=most_rows, clock=lambda: next(clock))


def test_the_first_and_the_last_sample_are_always_there() -> None:
    with sampler(Script({"temperature:a": 40.0}, {"temperature:a": 50.0}), Absent()) as running:
        pass
    record = running.record()
    assert record["series"] == {"temperature:a": [40.0, 50.0]}
    assert record["at_s"] == [0.5, 1.5]
    assert record["summary"] == {"temperature:a": {"mean": 45.0, "least": 40.0, "most": 50.0, "growth": 10.0}}
    assert record["absent"]["clock"] == ["nowhere: no clock"]
    assert record["sampling_s"] == 1.0


def test_a_value_that_fails_once_is_a_gap() -> None:
    with sampler(Script({"temperature:a": 40.0}, {}, {"temperature:a": 44.0})) as running:
        running.take()
    assert running.record()["series"]["temperature:a"] == [40.0, None, 44.0]
    assert running.values("temperature:a") == [(0.5, 40.0), (2.5, 44.0)]


def test_of_a_counter_only_its_growth_is_told() -> None:
    with sampler(Script({"energy:a": 100.0}, {"energy:a": 130.0})) as running:
        pass
    assert running.record()["summary"] == {"energy:a": {"growth": 30.0}}


def test_long_measurements_are_thinned_and_extremes_kept() -> None:
    values = [{"temperature:a": float(40 + (number == 37) * 50)} for number in range(100)]
    with sampler(Script(*values), most_rows=16) as running:
        for _ in range(98):
            running.take()
    record = running.record()
    assert 8 < len(record["at_s"]) <= 16
    assert record["at_s"] == sorted(record["at_s"]) and record["at_s"][0] == 0.5
    assert record["summary"]["temperature:a"]["most"] == 90.0


def test_energy_of_counters_and_of_power_over_time() -> None:
    readings = [{"energy:gpu": 5.0, "power:gpu": 9.0, "power:in": 10.0}, {"energy:gpu": 8.0, "power:in": 20.0}]
    with sampler(Script(*readings)) as running:
        pass
    assert joules(running, ["energy:gpu", "power:gpu", "power:in"]) == {"gpu": 3.0, "in": pytest.approx(15.0)}


def test_what_ends_the_measurement_ends_the_sampler() -> None:
    running = sampler(Script({"temperature:a": 1.0}))
    with pytest.raises(ValueError, match="broke"), running:
        raise ValueError("broke")
    assert not running._thread.is_alive()
