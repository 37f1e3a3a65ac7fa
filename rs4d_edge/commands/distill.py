"""`rs4d-distill`: teach a new encoder to give what a teacher's encoder gives, on pictures without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import cv2
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from rs4d_edge.commands.terminal import run_app, stop_on_signals
from rs4d_edge.errors import InputError
from rs4d_edge.reference.presets import preset
from rs4d_edge.training.datasets import read_annotations
from rs4d_edge.training.distill_card import write_distill_card
from rs4d_edge.training.distill_settings import DistillSettings, LossWeights, parse_corruption
from rs4d_edge.training.distillation import ENCODER_NAME, Distiller, DistillResult, open_fabric
from rs4d_edge.training.teachers import open_teacher
from rs4d_edge.training.unlabelled import INDEX_NAME, UnlabelledImages, list_images

_SHOWN = 3  # unreadable files that are named
app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def distill(
    teacher: Annotated[
        str, typer.Option(help="Folder of a SAM (Hugging Face), a checkpoint of ours, or a shipped model's name")
    ],
    student: Annotated[str, typer.Option(help="Preset whose encoder learns")],
    images: Annotated[list[Path], typer.Option(help="Folder of pictures, searched in depth; may be repeated")],
    out: Annotated[Path, typer.Option(help="Folder for the encoder, state, metrics.jsonl and the card")],
    leave_out: Annotated[
        list[Path] | None,
        typer.Option(help="COCO file whose images are not used, such as those to evaluate on; may be repeated"),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Keep the teacher's embeddings in this folder instead of running it along")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Length of the run in epochs")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Length of the run in minutes; the schedule fits it")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images per step, over all devices")] = 16,
    accumulate: Annotated[int, typer.Option(help="Passes that a device makes for a step")] = 1,
    lr: Annotated[float, typer.Option(help="Peak learning rate")] = 5e-4,
    warmup: Annotated[int, typer.Option(help="Warm-up steps")] = 200,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay")] = 0.05,
    ema_decay: Annotated[float, typer.Option(help="Decay of the weights' moving average (0: none)")] = 0.998,
    corruption: Annotated[
        str, typer.Option(help="adaptive, adaptive:COST, none, or fixed NOISE:MASK, as 0.1:0.2")
    ] = "adaptive",
    patch: Annotated[int, typer.Option(help="Side of a hidden patch in pixels")] = 16,
    cosine: Annotated[float, typer.Option(help="Weight of the cosine loss beside L1")] = 0.0,
    layers: Annotated[int, typer.Option(help="Maps in between to learn from as well")] = 0,
    layers_weight: Annotated[float, typer.Option(help="Weight of the loss on those maps")] = 1.0,
    size: Annotated[int | None, typer.Option(help="Side of the student's input in pixels (default: preset's)")] = None,
    turns: Annotated[bool, typer.Option(help="Show flips and quarter turns; a cache is then eight times as large")] = (
        True
    ),
    smallest_crop: Annotated[float, typer.Option(help="Smallest random crop, as a share of each side")] = 1.0,
    holdout: Annotated[float, typer.Option(help="Share of the pictures kept apart to measure on")] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of weights, order, orientations and corruption")] = 0,
    precision: Annotated[str, typer.Option(help="bf16-mixed or 32-true")] = "bf16-mixed",
    teacher_precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16")] = "fp32",
    accelerator: Annotated[str, typer.Option(help="auto, cpu, or cuda")] = "auto",
    devices: Annotated[int, typer.Option(help="GPUs, or processes on a CPU")] = 1,
    evaluations: Annotated[int, typer.Option(help="Measurements on the way, evenly spread")] = 8,
    save_every: Annotated[int, typer.Option(help="Steps between two saves of the state")] = 200,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch")] = None,
    workers: Annotated[int, typer.Option(help="Data threads of each process")] = 1,
    limit: Annotated[int | None, typer.Option(help="Take the first N pictures only (for trying things out)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out")] = False,
) -> None:
    """Distil a teacher into a preset's encoder; it ends in OUT/encoder.safetensors, where rs4d-train begins."""
    config = preset(student)
    settings = _settings(
        epochs=epochs,
        max_minutes=max_minutes,
        batch=batch,
        accumulate=accumulate,
        lr=lr,
        warmup_steps=warmup,
        weight_decay=weight_decay,
        ema_decay=ema_decay,
        corruption=parse_corruption(corruption, patch),
        loss=_weights(cosine, layers, layers_weight),
        image_size=size,
        turns=turns,
        smallest_crop=smallest_crop,
        cached=cache is not None,
        holdout=holdout,
        seed=seed,
        precision=precision,
        teacher_precision=teacher_precision,
        evaluations=evaluations,
        save_every_steps=save_every,
        data_workers=workers,
    )
    if threads is not None:
        torch.set_num_threads(threads)
    cv2.setNumThreads(1)  # the data threads are the parallelism; OpenCV's own pool would fight torch's
    opened = open_teacher(teacher)
    pictures = _list(images, out, _named_in(leave_out or []), limit)
    fabric = open_fabric(settings, accelerator, devices)
    distiller = Distiller(
        config.encoder, opened, pictures, settings, out, fabric=fabric, cache_dir=cache, console=console
    )
    if fabric.is_global_zero:
        _announce(student, distiller, pictures)
    stop_on_signals(distiller.stop, console)
    result = distiller.run(resume=resume)
    if fabric.is_global_zero:
        _report(student, distiller, result)
    if not result.finished:
        raise typer.Exit(130)


def _settings(**values: Any) -> DistillSettings:
    try:
        return DistillSettings(**values)
    except ValueError as error:
        raise InputError(f"the options do not fit together: {error}") from error


def _weights(cosine: float, layers: int, layers_weight: float) -> LossWeights:
    try:
        return LossWeights(cosine=cosine, layer_maps=layers, layers=layers_weight if layers else 0.0)
    except ValueError as error:
        raise InputError(f"the loss's options do not fit together: {error}") from error


def _named_in(annotations: list[Path]) -> frozenset[str]:
    """File names of the images in COCO files, without their folders."""
    return frozenset(
        Path(str(image["file_name"])).name for path in annotations for image in read_annotations(path)["images"]
    )


def _list(folders: list[Path], out: Path, leave_out: frozenset[str], limit: int | None) -> UnlabelledImages:
    """The pictures, with a bar while they are read for the first time."""
    with Progress(console=console, transient=True, refresh_per_second=2) as bar:
        task = bar.add_task("reading the pictures", total=None)

        def shown(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return list_images(folders, out / INDEX_NAME, leave_out=leave_out, limit=limit, shown=shown)


def _announce(student: str, distiller: Distiller, pictures: UnlabelledImages) -> None:
    if pictures.unreadable:
        console.print(f"{len(pictures.unreadable)} files cannot be read and are left out:", soft_wrap=True)
        for _, reason in pictures.unreadable[:_SHOWN]:
            console.print(f"  {reason}", soft_wrap=True, markup=False)
    teacher, settings = distiller.teacher, distiller.settings
    rows, columns = teacher.grid_hw
    length = f"{distiller.total_steps} steps" if distiller.total_steps else f"{settings.max_minutes:g} minutes"
    console.print(
        f"teacher {teacher.name}: {teacher.channels}x{rows}x{columns} from {teacher.preprocessing.side} px; student "
        f"{student}: {distiller.encoder_parameters / 1e6:.2f} M parameters at {distiller.student_side} px; "
        f"{len(pictures.images)} pictures, {length} of {settings.batch}",
        soft_wrap=True,
        markup=False,
    )


def _report(student: str, distiller: Distiller, result: DistillResult) -> None:
    minutes = f"{result.elapsed_s / 60:.1f} min"
    if not result.finished:
        console.print(f"stopped at step {result.steps} after {minutes}; continue with --resume")
        return
    card = write_distill_card(student, distiller, result)
    console.print(
        f"{result.steps} steps in {minutes}; {ENCODER_NAME} and {card.name} in {distiller.out_dir}. Fine-tune with: "
        f"rs4d-train --preset {student} --init {distiller.out_dir / ENCODER_NAME}",
        soft_wrap=True,
        markup=False,
    )


def main() -> None:
    """Run the command; a deliberate error ends it with its message and status 1."""
    run_app(app)


if __name__ == "__main__":
    main()
