"""The adaptive rule keeps to its demands, whatever the losses are."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from rs4d_edge.training.adaptive_corruption import AdaptiveLevel, CorruptionCourse, ProbeLosses
from rs4d_edge.training.corruption import Levels
from rs4d_edge.training.distill_settings import CorruptionSettings, parse_corruption

SETTINGS = CorruptionSettings()
UNSMOOTHED = CorruptionSettings(smoothing=0.0)
loss = st.floats(0.0, 10.0)
any_loss = st.one_of(loss, st.just(math.nan), st.just(math.inf))
calmly = settings(deadline=None, derandomize=True)
probes = st.lists(st.tuples(any_loss, any_loss, any_loss), max_size=60)


@calmly
@given(probes)
def test_a_level_stays_in_its_range_and_moves_by_small_steps(losses: list[tuple[float, float, float]]) -> None:
    level = AdaptiveLevel(0.4, SETTINGS)
    for probe in losses:
        before = level.level
        after = level.update(*probe)
        assert 0.0 <= after <= 0.4
        assert abs(after - before) <= 0.4 / SETTINGS.ramp_probes + 1e-12


@calmly
@given(st.floats(0.0, 0.4), st.floats(0.01, 0.89), st.floats(0.0, 1.0))
def test_it_rises_below_the_target_and_falls_above(start: float, clean_share: float, cost: float) -> None:
    level = AdaptiveLevel(0.4, UNSMOOTHED)
    level.level = start
    constant = 2.0
    clean = clean_share * constant
    after = level.update(clean, clean + cost * (constant - clean), constant)
    if cost < UNSMOOTHED.target_cost:
        assert after >= start
    if cost > UNSMOOTHED.target_cost + 1e-9:
        assert after <= start


@calmly
@given(st.floats(0.0, 0.4), loss, loss, loss)
def test_a_greater_loss_never_gives_a_higher_level(start: float, clean: float, more: float, most: float) -> None:
    levels = []
    for corrupted in (clean + more, clean + more + most):
        level = AdaptiveLevel(0.4, UNSMOOTHED)
        level.level = start
        levels.append(level.update(clean, corrupted, 10.0))
    assert levels[1] <= levels[0]


@calmly
@given(st.floats(1e-6, 1.0), st.floats(1e-3, 10.0))
def test_a_student_that_has_learnt_nothing_is_left_alone(excess: float, constant: float) -> None:
    """Its loss does not depend on its input, so that corruption costs nothing: the trap of the plain gap."""
    level = AdaptiveLevel(0.4, SETTINGS)
    clean = constant * (1 - SETTINGS.learnt_first + excess)
    for _ in range(30):
        assert level.update(clean, clean, constant) == 0.0


@calmly
@given(st.floats(0.02, 3.0), st.floats(0.1, 10.0), st.floats(0.0, 0.4))
def test_it_settles_where_corruption_costs_the_target(slope: float, scale: float, start: float) -> None:
    """A cost that grows linearly with the level, at any scale of the losses: the level ends at the crossing."""
    level = AdaptiveLevel(0.4, SETTINGS)
    level.level = start
    for _ in range(400):
        learnt = 0.5 * scale
        level.update(scale - learnt, scale - learnt + slope * level.level * learnt, scale)
    crossing = min(SETTINGS.target_cost / slope, 0.4)
    assert abs(level.level - crossing) <= 0.4 / SETTINGS.ramp_probes


def test_a_student_that_prefers_spoiled_pictures_gets_less_of_them() -> None:
    level = AdaptiveLevel(0.4, SETTINGS)
    level.level = 0.3
    assert level.update(clean=1.2, corrupted=1.0, constant=2.0) < 0.3
    assert level.cost > SETTINGS.target_cost


@calmly
@given(probes, probes)
def test_a_restored_course_goes_on_as_the_first(
    before: list[tuple[float, float, float]], after: list[tuple[float, float, float]]
) -> None:
    first = CorruptionCourse(SETTINGS)
    for clean, corrupted, constant in before:
        first.update(ProbeLosses(clean, corrupted, corrupted / 2, constant))
    second = CorruptionCourse(SETTINGS)
    second.load(first.state())
    for clean, corrupted, constant in after:
        losses = ProbeLosses(clean, corrupted, corrupted / 2, constant)
        assert first.update(losses) == second.update(losses)


def test_noise_and_masks_follow_their_own_cost() -> None:
    course = CorruptionCourse(SETTINGS)
    for _ in range(10):
        course.update(ProbeLosses(clean=1.0, noisy=1.0, masked=1.9, constant=2.0))
    assert course.levels.noise > 0.2
    assert course.levels.mask == 0.0
    assert course.figures()["mask_cost"] > 0.85


def test_fixed_and_no_corruption_are_never_probed() -> None:
    for text, levels in (("none", Levels(0.0, 0.0)), ("0.1:0.3", Levels(0.1, 0.3))):
        course = CorruptionCourse(parse_corruption(text))
        assert not any(course.probe_due(step) for step in range(100))
        assert course.levels == levels
    assert [step for step in range(50) if CorruptionCourse(SETTINGS).probe_due(step)] == [0, 20, 40]
