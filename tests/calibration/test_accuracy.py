"""The search for layers to restore, on accuracies that are made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from rs4d_edge.calibration.accuracy import AccuracyGoal, choose_layers
from rs4d_edge.errors import InputError

GROUPS = [frozenset({name}) for name in "abc"] + [frozenset({"d", "e"})]
LOSSES = {"a": 0.01, "b": 0.1, "c": 0.0, "d": 0.02, "e": 0.02}


def accuracy(restored: frozenset[str]) -> float:
    """0.5, less what every layer that is not restored costs."""
    return 0.5 - sum(loss for name, loss in LOSSES.items() if name not in restored)


def test_nothing_is_restored_if_nothing_is_lost() -> None:
    found = choose_layers(GROUPS, lambda restored: 0.4, 0.0)
    assert found.restored == frozenset() and found.met
    assert len(found.steps) == 2


def test_the_worst_go_back_first_and_no_more_than_needed() -> None:
    notes: list[str] = []
    found = choose_layers(GROUPS, accuracy, 0.015, notes.append)
    assert found.met and found.restored == {"b", "d", "e"}
    assert found.mask_ap == pytest.approx(0.49) and found.float_ap == 0.5
    assert [step.restored for step in found.steps[-2:]] == [("b",), ("b", "d", "e")]
    assert "b is number 1 by effect (+0.1000)" in notes[-2] and "d, e is number 2 by effect (+0.0400)" in notes[-1]
    assert len(notes) == len(found.steps)


def test_each_set_is_measured_once() -> None:
    measured: list[frozenset[str]] = []

    def measure(restored: frozenset[str]) -> float:
        measured.append(restored)
        return accuracy(restored)

    choose_layers(GROUPS, measure, 0.0)
    assert len(measured) == len(set(measured))


def test_the_best_found_is_the_answer_where_the_goal_is_out_of_reach() -> None:
    def only_float_is_good(restored: frozenset[str]) -> float:
        return 0.5 if len(restored) == 5 else 0.3 + 0.1 * ("b" in restored) - 0.02 * ("c" in restored)

    found = choose_layers(GROUPS, only_float_is_good, 0.05)
    assert not found.met and found.restored == {"b"}
    assert found.mask_ap == pytest.approx(0.4) and found.float_ap == 0.5
    assert all(len(step.restored) < 5 for step in found.steps[1:]), "without int8 it is no int8 model"


@pytest.mark.parametrize("drop", [-0.1, 1.0])
def test_a_drop_is_a_difference_of_ap(drop: float) -> None:
    with pytest.raises(InputError, match="max-drop"):
        AccuracyGoal(Path("val.json"), drop)


def test_images_lie_beside_the_annotations_or_in_their_folder(tmp_path: Path) -> None:
    goal = AccuracyGoal(tmp_path / "val.json", 0.005)
    assert goal.images_dir == tmp_path
    (tmp_path / "images").mkdir()
    assert goal.images_dir == tmp_path / "images"


def test_latency_is_measured_for_what_stays_restored_and_not_for_single_effects() -> None:
    timed: list[frozenset[str]] = []

    def latency(restored: frozenset[str]) -> float:
        timed.append(restored)
        return 0.5 + len(restored) / 10

    notes: list[str] = []
    found = choose_layers(GROUPS, accuracy, 0.015, notes.append, latency)
    everything, nothing = frozenset("abcde"), frozenset[str]()
    assert timed == [everything, nothing, frozenset("b"), frozenset("bde")]
    ratios = [(step.restored, step.latency_ratio) for step in found.steps if step.latency_ratio is not None]
    assert ratios == [(tuple("abcde"), 1.0), ((), 0.5), (("b",), 0.6), (tuple("bde"), 0.8)]
    assert all(step.latency_ratio is None for step in found.steps if step.why.startswith("effect of"))
    assert "0.50 of the fp32 time" in notes[1]
    untimed = choose_layers(GROUPS, accuracy, 0.015)
    assert {step.latency_ratio for step in untimed.steps} == {None}
