from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.measuring import Bar, Timed, Times, ratio, take_turns
from tests.house.repository import ROOT


def test_functions_take_turns_after_their_warm_up() -> None:
    calls: list[str] = []
    functions = {
        "slow": Timed(lambda: calls.append("slow"), runs=1, warm_up=0),
        "quick": Timed(lambda: calls.append("quick"), runs=3, warm_up=2),
    }
    times = take_turns(functions)
    assert calls == ["quick", "quick", "slow", "quick", "quick", "quick"]
    assert {name: each.runs for name, each in times.items()} == {"slow": 1, "quick": 3}
    assert all(0 <= each.least_ms <= each.median_ms for each in times.values())


@pytest.mark.parametrize(
    ("bar", "verdict"),
    [
        (Bar("time", 2.5, 2.5), "met"),
        (Bar("time", 2.5, 2.6), "not met"),
        (Bar("speed", 25.0, 24.9, at_least=True), "not met"),
        (Bar("speed", 25.0, 25.0, at_least=True), "met"),
        (Bar("speed", 25.0, None, at_least=True), "not available here"),
        (Bar("speed", 25.0, None, absent="not measured"), "not measured"),
        (Bar("time", 2.5, 1.0, judged=False), "not judged"),
    ],
)
def test_a_bar_says_whether_it_is_met(bar: Bar, verdict: str) -> None:
    assert bar.verdict == verdict
    assert bar.record()["verdict"] == verdict
    assert bar.record()["bar"] == f"{'at least' if bar.at_least else 'at most'} {bar.limit:g}"


def test_a_ratio_needs_both() -> None:
    assert ratio(Times(6.0, 5.0, 3), Times(2.0, 1.0, 3)) == 3.0
    assert ratio(None, Times(2.0, 1.0, 3)) is None
    assert ratio(Times(2.0, 1.0, 3), None) is None


def test_peak_memory_is_what_the_process_itself_holds() -> None:
    probe = (
        "from rs4d_edge.bench.peak import resident_peak_bytes\n"
        "before = resident_peak_bytes()\n"
        "held = bytearray(before + (64 << 20))\n"
        "held[::4096] = b'1' * len(held[::4096])\n"
        "print(before, resident_peak_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    before, more = map(int, done.stdout.split())
    assert 10 << 20 < before < 1 << 30  # an interpreter with OpenVINO
    assert more >= 32 << 20
