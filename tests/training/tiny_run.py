"""Trains the tiny model in a process of its own; arguments: DATA OUT SAVE_EVERY PAUSE_S [resume]."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from rs4d_edge.reference.detector import RS4D
from rs4d_edge.training.augment import AugmentConfig
from rs4d_edge.training.datasets import load_coco
from rs4d_edge.training.settings import TrainSettings, parse_sizes
from rs4d_edge.training.trainer import Trainer
from tests.training.test_trainer import CONFIG


class SlowTrainer(Trainer):
    """Rests after each step, so that a test can end the process between two saves."""

    pause_s = 0.0

    def _train_step(self, batch: Any) -> tuple[dict[str, float], float]:
        result = super()._train_step(batch)
        (self.out_dir / f"step-{self._step}").touch()
        time.sleep(self.pause_s)
        return result


def main(data: Path, out: Path, save_every: int, pause_s: float, resume: bool) -> None:
    """Six steps in three epochs."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    settings = TrainSettings(
        epochs=3,
        batch=2,
        warmup_steps=2,
        evaluations=1,
        save_every_steps=save_every,
        sizes=parse_sizes("64"),
        augment=AugmentConfig(copy_paste=0.5),
    )
    dataset = load_coco(data / "annotations.json", data / "images")
    trainer = SlowTrainer(RS4D(CONFIG), dataset, settings, out, console=Console(file=io.StringIO()))
    trainer.pause_s = pause_s
    trainer.run(resume=resume)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), "resume" in sys.argv[5:])
