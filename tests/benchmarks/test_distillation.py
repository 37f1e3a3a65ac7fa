"""The distillation experiment: what its arms have in common, and how their figures are summed up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.distillation import ARMS, NO_TEACHER, SHORT, Plan, Run, distill_command, start, summary, train_command
from rs4d_edge.reference.checkpoints import load_state
from rs4d_edge.reference.shipped import DEFAULT_NAME, shipped_path

HEADS = ("neck.", "rpn_head.", "roi_head.bbox_head.")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path, tmp_path, DEFAULT_NAME, DEFAULT_NAME, 128, 6, 2, 3, 8, 1)


def run(arm: str, seed: int, ap: float, learnt: float | None = None) -> Run:
    return Run(arm, seed, {"AP": ap, "AP50": 2 * ap}, {"AP": 0.0, "AP50": 0.0}, learnt, 60.0, 30.0)


def test_every_arm_begins_with_the_teacher_s_heads_and_an_encoder_of_the_seed(plan: Plan) -> None:
    states = [load_state(start(plan, seed))[0] for seed in (0, 1)]
    teacher, _ = load_state(shipped_path(DEFAULT_NAME))
    for name in (each for each in teacher if each.startswith(HEADS)):
        assert all(torch.equal(state[name], teacher[name]) for state in states), name
    weights = [state["backbone.layers.0.in_proj.weight"] for state in states]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], teacher["backbone.layers.0.in_proj.weight"])
    assert states[0]["backbone.pos_embed"].shape[1] == (128 // 16) ** 2


def test_the_arm_without_a_teacher_trains_longer_and_is_otherwise_the_same(plan: Plan, tmp_path: Path) -> None:
    alone, short = (train_command(plan, arm, 0, tmp_path, None) for arm in (NO_TEACHER, SHORT))
    tuned = train_command(plan, "adaptive", 0, tmp_path, tmp_path / "encoder.safetensors")
    epochs = [words[words.index("--epochs") + 1] for words in (alone, short, tuned)]
    assert epochs == ["5", "2", "2"]
    assert short == tuned[:-2]
    assert [word for word in alone if word != "5"] == [word for word in tuned[:-2] if word != "2"]
    assert tuned[-2:] == ["--init", str(tmp_path / "encoder.safetensors")]


def test_distilling_arms_differ_in_their_corruption_alone(plan: Plan, tmp_path: Path) -> None:
    commands = [distill_command(plan, arm, 0, tmp_path) for arm in ARMS]
    assert {words[words.index("--corruption") + 1] for words in commands} == set(ARMS.values())
    rest = {tuple(word for word in words if word not in ARMS.values()) for words in commands}
    assert len(rest) == 1
    assert all("--leave-out" in words for words in commands)


def test_means_and_deviations_are_over_the_seeds() -> None:
    rows = summary([run(NO_TEACHER, 0, 0.1), run("adaptive", 0, 0.2, 0.5), run("adaptive", 1, 0.4, 0.7)])
    alone, adaptive = rows
    assert (alone["seeds"], alone["mask AP deviation"], alone["learnt"]) == (1, None, None)
    assert adaptive["mask AP"] == pytest.approx(0.3)
    assert adaptive["mask AP deviation"] == pytest.approx(0.02**0.5)
    assert (adaptive["learnt"], adaptive["minutes"]) == (pytest.approx(0.6), 1.5)
