"""What distillation is worth at an equal budget: `python -m benchmarks.distillation --data DIR --out DIR`.

    RS4D_DATA=data python -m benchmarks.distillation --out runs/experiment                   # all arms, three seeds
    RS4D_DATA=data python -m benchmarks.distillation --out runs/experiment --seeds 0 1 2 3 4 # adds two

All arms train a model on NWPU VHR-10's train.json and are measured on its val.json. Neck and heads begin with the
teacher's weights in every arm, so that it is the encoder that is compared: it begins at random, is distilled from the
teacher's (the arms differ in what the student's input suffers), and is fine-tuned with the rest. The arm without
distillation spends the same processor time on more epochs of training; one more does not, and shows what these are
worth. Every run is a pair of the project's own commands, which are printed; finished runs are kept in --out, so the
script may be interrupted. Schedules go by epochs: a seed repeats on one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from rs4d_edge.errors import InputError
from rs4d_edge.machine import machine_record
from rs4d_edge.reference.checkpoints import save_checkpoint
from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.presets import preset
from rs4d_edge.training.warm_start import warm_start
from rs4d_edge.whole_file import write_json

NO_TEACHER = "no distillation"
SHORT = "no distillation, no more epochs"  # what fine-tuning alone gives in the time that the others leave for it
ARMS = {
    "plain L1": "none",
    "fixed 0.1 noise, 0.1 mask": "0.1:0.1",
    "fixed 0.2 noise, 0.2 mask": "0.2:0.2",
    "fixed 0.3 noise, 0.3 mask": "0.3:0.3",
    "adaptive": "adaptive",
}
DEFAULT_ARMS = (NO_TEACHER, SHORT, "plain L1", "fixed 0.2 noise, 0.2 mask", "adaptive")
FIGURES = ("AP", "AP50")


class Plan(NamedTuple):
    """What all runs have in common."""

    data: Path
    out: Path
    preset: str
    teacher: str
    size: int
    distill_epochs: int
    tune_epochs: int
    extra_epochs: int
    batch: int
    threads: int


class Run(NamedTuple):
    """One seed of one arm: mask AP and AP50 on val.json, the share of the teacher learnt, and seconds."""

    arm: str
    seed: int
    mask: dict[str, float]
    box: dict[str, float]
    learnt: float | None
    distill_s: float
    tune_s: float


def distill_command(plan: Plan, arm: str, seed: int, folder: Path) -> list[str]:
    """The encoder alone, from the training images; the teacher's embeddings come from a cache that all runs share."""
    return [
        *("rs4d-distill", "--teacher", plan.teacher, "--student", plan.preset),
        *("--images", str(plan.data / "images"), "--leave-out", str(plan.data / "val.json")),
        *("--cache", str(plan.out / "cache"), "--no-turns", "--size", str(plan.size), "--corruption", ARMS[arm]),
        *("--epochs", str(plan.distill_epochs), "--batch", str(plan.batch), "--warmup", "50", "--lr", "1e-3"),
        *("--evaluations", "1", "--seed", str(seed), "--threads", str(plan.threads), "--out", str(folder)),
    ]


def train_command(plan: Plan, arm: str, seed: int, folder: Path, encoder: Path | None) -> list[str]:
    """The whole model; in the arm `NO_TEACHER` longer by what distillation would have cost."""
    epochs = plan.tune_epochs + (plan.extra_epochs if arm == NO_TEACHER else 0)
    begin = [] if encoder is None else ["--init", str(encoder)]
    return [
        *("rs4d-train", "--preset", plan.preset, "--annotations", str(plan.data / "train.json")),
        *("--images", str(plan.data / "images"), "--val-annotations", str(plan.data / "val.json")),
        *("--val-images", str(plan.data / "images"), "--epochs", str(epochs), "--sizes", str(plan.size)),
        *("--batch", str(plan.batch), "--mosaic", "0.3", "--copy-paste", "0.2", "--scale", "0.6", "1.5"),
        *("--precision", "32-true", "--warmup", "50", "--ema-decay", "0.99", "--evaluations", "1", "--seed", str(seed)),
        *("--image-size", str(plan.size), "--threads", str(plan.threads), "--out", str(folder)),
        *("--init", str(start(plan, seed)), *begin),
    ]


def start(plan: Plan, seed: int) -> Path:
    """A checkpoint at the experiment's size: an encoder drawn by the seed, under the teacher's neck and heads."""
    path = plan.out / f"start-{seed}.safetensors"
    if not path.is_file():
        fields = preset(plan.preset).model_dump()
        fields["encoder"]["image_size_hw"] = (plan.size, plan.size)
        torch.manual_seed(seed)
        model = RS4D(DetectorConfig.model_validate(fields))
        drawn = {name: value.clone() for name, value in model.backbone.state_dict().items()}
        warm_start(model, plan.teacher)
        model.backbone.load_state_dict(drawn)
        save_checkpoint(model, path)
    return path


def carry_out(plan: Plan, arm: str, seed: int, console: Console) -> Run:
    """Both commands of one run, unless their results are there already."""
    folder = plan.out / f"{arm.replace(' ', '-').replace(',', '')}-{seed}"
    encoder: Path | None = None
    distilled: dict[str, Any] = {}
    if arm in ARMS:
        _command(distill_command(plan, arm, seed, folder / "encoder"), folder / "encoder", console)
        encoder = folder / "encoder" / "encoder.safetensors"
        distilled = _last(folder / "encoder" / "metrics.jsonl", "held out")
    _command(train_command(plan, arm, seed, folder / "detector", encoder), folder / "detector", console)
    tuned = _last(folder / "detector" / "metrics.jsonl", "val")
    mask, box = ({name: float(tuned[kind][name]) for name in FIGURES} for kind in ("segm", "bbox"))
    seconds = float(distilled.get("elapsed_s", 0.0)), float(tuned["elapsed_s"])
    return Run(arm, seed, mask, box, distilled.get("learnt"), *seconds)


def _command(words: Sequence[str], folder: Path, console: Console) -> None:
    """Run one of our commands into `folder`, whose card is written last and tells that it has finished."""
    if (folder / "model_card.md").is_file():
        return
    console.print(shlex.join(words), soft_wrap=True, markup=False)
    folder.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).with_name(words[0])
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        done = subprocess.run([program, *words[1:]], stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"{words[0]} ended with status {done.returncode}; see {folder / 'log.txt'}")


def _last(path: Path, kind: str) -> dict[str, Any]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found: dict[str, Any] = next(record for record in reversed(records) if record["kind"] == kind)
    return found


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row an arm: means and standard deviations (n - 1) over its seeds."""
    rows = []
    for arm in dict.fromkeys(run.arm for run in runs):
        own = [run for run in runs if run.arm == arm]
        row: dict[str, Any] = {"arm": arm, "seeds": len(own)}
        for name in FIGURES:
            values = [run.mask[name] for run in own]
            row[f"mask {name}"] = statistics.mean(values)
            row[f"mask {name} deviation"] = statistics.stdev(values) if len(values) > 1 else None
        learnt = [run.learnt for run in own if run.learnt is not None]
        row["learnt"] = statistics.mean(learnt) if learnt else None
        row["minutes"] = statistics.mean(run.distill_s + run.tune_s for run in own) / 60
        rows.append(row)
    return rows


def summary_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows as a person reads them."""
    table = Table("arm", title="On val.json, mean ± standard deviation")
    for heading in ("seeds", "mask AP", "mask AP50", "learnt", "minutes"):
        table.add_column(heading, justify="right")
    for row in rows:
        cells = []
        for name in FIGURES:
            deviation = row[f"mask {name} deviation"]
            cells.append(f"{row[f'mask {name}']:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}"))
        learnt = "-" if row["learnt"] is None else f"{row['learnt']:.3f}"
        table.add_row(row["arm"], str(row["seeds"]), *cells, learnt, f"{row['minutes']:.1f}")
    return table


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of data sets with nwpu_vhr10 (default: RS4D_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and summary.json")
    parser.add_argument("--preset", default="rs4d-edge-nano-bbox")
    parser.add_argument(
        "--teacher", default="rs4d-edge-nano-bbox", help="a shipped model, a checkpoint, or a SAM folder"
    )
    parser.add_argument("--arms", nargs="+", choices=(NO_TEACHER, SHORT, *ARMS), default=DEFAULT_ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--size", type=int, default=320, help="side of the training images in pixels")
    parser.add_argument("--distill-epochs", type=int, default=6)
    parser.add_argument("--tune-epochs", type=int, default=2)
    parser.add_argument("--extra-epochs", type=int, default=2, help="of training, instead of distillation's")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Carry out what is missing, and show what is there."""
    options = parse()
    root = options.data or Path(os.environ.get("RS4D_DATA", ""))
    data = root / "nwpu_vhr10"
    if not (data / "train.json").is_file():
        raise InputError(f"{data} holds no train.json: give --data or set RS4D_DATA to the folder of data sets")
    shared = {name: getattr(options, name) for name in Plan._fields if name != "data"}
    plan, console = Plan(data=data.resolve(), **shared), Console(width=140)
    runs = []
    for seed in options.seeds:
        for arm in options.arms:
            run = carry_out(plan, arm, seed, console)
            runs.append(run)
            console.print(f"{run.arm}, seed {seed}: mask AP {run.mask['AP']:.4f}, AP50 {run.mask['AP50']:.4f}")
            rows = summary(runs)
            record = {
                "benchmark": "distillation",
                "machine": machine_record(("torch",)),
                "plan": {
                    name: str(value) if isinstance(value, Path) else value for name, value in plan._asdict().items()
                },
                "runs": [each._asdict() for each in runs],
                "summary": rows,
            }
            write_json(record, plan.out / "summary.json")
    console.print(summary_table(rows))


if __name__ == "__main__":
    main()
