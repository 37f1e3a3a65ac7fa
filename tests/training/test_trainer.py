from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from rs4d_edge.errors import CheckpointError, InputError
from rs4d_edge.reference.config import DetectorConfig, EncoderConfig, NeckConfig, NeckType, ProposalConfig, RoIConfig
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.training.augment import AugmentConfig
from rs4d_edge.training.datasets import load_coco
from rs4d_edge.training.settings import TrainSettings, parse_sizes
from rs4d_edge.training.trainer import BEST_NAME, LAST_NAME, METRICS_NAME, Trainer
from tests.training.tiny_data import write_tiny_coco

QUIET = Console(file=io.StringIO())
CONFIG = DetectorConfig(
    name="tiny",
    classes=("square", "bar"),
    encoder=EncoderConfig(
        channels=16, depth=1, inner_channels=16, state_size=4, image_size_hw=(64, 64), stem_channels=(8, 8, 8)
    ),
    neck=NeckConfig(type=NeckType.EDGE, layers=(), channels=8),
    proposals=ProposalConfig(strides=(8, 16, 32, 64), scales=(2.0,), channels=8, pre_nms=16, proposals=8),
    roi=RoIConfig(strides=(8, 16, 32), fc_channels=16, mask_convs=1, mask_channels=8),
)


def settings(**changes: Any) -> TrainSettings:
    values: dict[str, Any] = {
        "epochs": 3,
        "batch": 2,
        "warmup_steps": 2,
        "evaluations": 0,
        "sizes": parse_sizes("64"),
        "augment": AugmentConfig(copy_paste=0.5),
    }
    return TrainSettings(**{**values, **changes})


def trainer(folder: Path, out: str, **options: Any) -> Trainer:
    annotations, images = write_tiny_coco(folder)
    evaluate = options.pop("evaluate", None)
    torch.manual_seed(1)
    return Trainer(
        RS4D(CONFIG),
        load_coco(annotations, images),
        settings(**options),
        folder / out,
        evaluate=evaluate,
        console=QUIET,
    )


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.averaged_model().state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


class StoppingTrainer(Trainer):
    """Stops itself after a number of steps, as a signal would."""

    stop_after = 3

    def _train_step(self, batch: Any) -> Any:
        result = super()._train_step(batch)
        if self._step + 1 == self.stop_after:
            self.stop()
        return result


def test_same_seed_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    runs = []
    for out, seed in (("a", 5), ("b", 5), ("c", 6)):
        run = trainer(tmp_path, out, seed=seed)
        run.run()
        runs.append(weights(run))
    assert_same(runs[0], runs[1])
    assert any(not torch.equal(value, runs[2][name]) for name, value in runs[0].items())


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = trainer(tmp_path, "whole")
    assert whole.run().steps == 6
    cut = trainer(tmp_path, "cut")
    cut.__class__ = StoppingTrainer
    stopped = cut.run()
    assert (stopped.steps, stopped.finished) == (3, False)
    resumed = trainer(tmp_path, "cut")
    result = resumed.run(resume=True)
    assert (result.steps, result.finished) == (6, True)
    assert_same(weights(resumed), weights(whole))


def test_the_best_evaluation_is_kept(tmp_path: Path) -> None:
    aps = iter((0.2, 0.5, 0.1))
    seen: list[bool] = []

    def evaluate(model: RS4D) -> dict[str, Any]:
        seen.append(model.training)
        part = {"AP": next(aps), "AP50": 0.5}
        return {"images": 1, "bbox": part, "segm": part}

    run = trainer(tmp_path, "out", evaluations=3, evaluate=evaluate)
    result = run.run()
    assert seen == [False, False, False]
    assert (result.best["segm"]["AP"], result.best["step"], result.last["step"]) == (0.5, 4, 6)
    best, last = load_file(tmp_path / "out" / BEST_NAME), load_file(tmp_path / "out" / LAST_NAME)
    assert any(not torch.equal(best[name], last[name]) for name in best)
    records = [json.loads(line) for line in (tmp_path / "out" / METRICS_NAME).read_text().splitlines()]
    assert [record["segm"]["AP"] for record in records if record["kind"] == "val"] == [0.2, 0.5, 0.1]


def test_a_resumed_run_knows_its_best_evaluation_and_writes_no_step_twice(tmp_path: Path) -> None:
    aps = iter((0.5, 0.1, 0.2))

    def evaluate(model: RS4D) -> dict[str, Any]:
        part = {"AP": next(aps), "AP50": 0.5}
        return {"images": 1, "bbox": part, "segm": part}

    cut = trainer(tmp_path, "cut", evaluations=3, evaluate=evaluate)
    cut.__class__ = StoppingTrainer
    assert cut.run().best["step"] == 2
    metrics = tmp_path / "cut" / METRICS_NAME
    with metrics.open("a") as stream:  # as a process that was killed after its last save leaves it
        stream.write(json.dumps({"kind": "train", "step": 4}) + '\n{"kind": "tra')
    result = trainer(tmp_path, "cut", evaluations=3, evaluate=evaluate).run(resume=True)
    assert (result.best["step"], result.best["segm"]["AP"]) == (2, 0.5)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [2, 4, 6]


def test_a_run_by_time_ends_at_its_deadline_with_the_rate_annealed(tmp_path: Path) -> None:
    run = trainer(tmp_path, "out", epochs=None, max_minutes=2 / 60, warmup_steps=0)
    result = run.run()
    assert result.finished
    assert result.steps >= 1
    assert result.elapsed_s >= 2.0


def test_other_classes_are_refused(tmp_path: Path) -> None:
    annotations, images = write_tiny_coco(tmp_path)
    model = RS4D(CONFIG.model_copy(update={"classes": ("square", "disc")}))
    with pytest.raises(InputError, match="disc"):
        Trainer(model, load_coco(annotations, images), settings(), tmp_path / "out", console=QUIET)


def test_resuming_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run to resume"):
        trainer(tmp_path, "out").run(resume=True)
