"""`rs4d-train`: train a preset on COCO-format instance masks (NWPU, SSDD, own data) or on WHU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import torch
import typer
from rich.console import Console

from rs4d_edge.commands.terminal import run_app, stop_on_signals
from rs4d_edge.errors import InputError
from rs4d_edge.evaluation.coco import evaluate
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.presets import preset
from rs4d_edge.runtimes.torch_runtime import TorchRuntime
from rs4d_edge.training.augment import AugmentConfig
from rs4d_edge.training.card import write_card
from rs4d_edge.training.datasets import load_coco, load_whu
from rs4d_edge.training.instances import InstanceDataset
from rs4d_edge.training.settings import TrainSettings, parse_sizes
from rs4d_edge.training.trainer import Evaluate, Trainer, TrainResult
from rs4d_edge.training.warm_start import warm_start

NWPU_FOLDER = "nwpu_vhr10"
app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for weights, state, metrics.jsonl and the model card")],
    preset_name: Annotated[str, typer.Option("--preset", help="Model to train")] = "rs4d-edge-nano-bbox",
    data: Annotated[
        Path | None, typer.Option(help="Folder of data sets (default: RS4D_DATA); trains on its nwpu_vhr10")
    ] = None,
    annotations: Annotated[Path | None, typer.Option(help="COCO file to train on, instead of --data")] = None,
    images: Annotated[Path | None, typer.Option(help="Image folder of --annotations")] = None,
    val_annotations: Annotated[Path | None, typer.Option(help="COCO file to evaluate on")] = None,
    val_images: Annotated[Path | None, typer.Option(help="Image folder of --val-annotations")] = None,
    whu: Annotated[Path | None, typer.Option(help="Train on the WHU data set in this folder")] = None,
    epochs: Annotated[int | None, typer.Option(help="Length of the run in epochs")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Length of the run in minutes; the schedule fits it")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images per step")] = 8,
    lr: Annotated[float, typer.Option(help="Peak learning rate")] = 1e-3,
    warmup: Annotated[int, typer.Option(help="Warm-up steps")] = 200,
    weight_decay: Annotated[float, typer.Option(help="AdamW's weight decay")] = 0.05,
    ema_decay: Annotated[float, typer.Option(help="Decay of the weights' moving average")] = 0.998,
    sizes: Annotated[str, typer.Option(help="Training sizes and shares, as 384:0.4,512:0.4,640:0.2")] = "512",
    scale: Annotated[tuple[float, float], typer.Option(help="Range of the random scale, relative to fitting")] = (
        0.5,
        1.6,
    ),
    mosaic: Annotated[float, typer.Option(help="Probability of a mosaic of images")] = 0.5,
    copy_paste: Annotated[float, typer.Option(help="Probability of pasting another image's instances")] = 0.3,
    seed: Annotated[int, typer.Option(help="Seed of weights, order, augmentation and sampling")] = 0,
    precision: Annotated[str, typer.Option(help="bf16-mixed or 32-true")] = "bf16-mixed",
    evaluations: Annotated[int, typer.Option(help="Evaluations on the way, evenly spread")] = 8,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch")] = None,
    workers: Annotated[int, typer.Option(help="Data threads")] = 1,
    limit: Annotated[int | None, typer.Option(help="Train on the first N images only (for trying things out)")] = None,
    init: Annotated[
        str | None, typer.Option(help="Begin with what fits of this checkpoint file or shipped model")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out")] = False,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out annotated images that are missing")
    ] = False,
) -> None:
    """Train a model; weights with the best mask AP end in OUT/best.safetensors."""
    dataset, validation = _datasets(data, annotations, images, val_annotations, val_images, whu, skip_missing)
    if limit is not None:
        dataset = InstanceDataset(f"{dataset.name}-first-{limit}", dataset.classes, dataset.records[:limit])
    config = preset(preset_name).model_copy(update={"classes": dataset.classes})
    settings = _settings(
        epochs=epochs,
        max_minutes=max_minutes,
        batch=batch,
        lr=lr,
        warmup_steps=warmup,
        weight_decay=weight_decay,
        ema_decay=ema_decay,
        sizes=parse_sizes(sizes),
        seed=seed,
        precision=precision,
        evaluations=evaluations,
        data_workers=workers,
        initial_weights=init,
        augment=AugmentConfig(
            fit_size=max(config.encoder.image_size_hw), scale_range=scale, mosaic=mosaic, copy_paste=copy_paste
        ),
    )
    if threads is not None:
        torch.set_num_threads(threads)
    cv2.setNumThreads(1)  # the data threads are the parallelism; OpenCV's own pool would fight torch's
    torch.manual_seed(seed)
    model = RS4D(config)
    console.print(
        f"{config.name}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters; {dataset.name}: "
        f"{len(dataset.records)} images, {dataset.instance_count} instances"
        + (f" ({dataset.skipped} images missing, left out)" if dataset.skipped else "")
    )
    if init is not None and not resume:
        begun = warm_start(model, init)
        console.print(f"{len(begun.taken)} values from {init}; {len(begun.new)} new ones: {_shortened(begun.new)}")
    trainer = Trainer(model, dataset, settings, out, evaluate=_evaluator(validation, skip_missing), console=console)
    stop_on_signals(trainer.stop, console)
    result = trainer.run(resume=resume)
    _report(trainer, result, dataset, validation)


def _datasets(
    data: Path | None,
    annotations: Path | None,
    images: Path | None,
    val_annotations: Path | None,
    val_images: Path | None,
    whu: Path | None,
    skip_missing: bool,
) -> tuple[InstanceDataset, tuple[Path, Path] | None]:
    """The training data and, where there is one, the (annotations, images) to evaluate on."""
    missing: Literal["error", "skip"] = "skip" if skip_missing else "error"
    validation = None
    if val_annotations is not None or val_images is not None:
        if val_annotations is None or val_images is None:
            raise InputError("--val-annotations and --val-images belong together: give both or neither")
        validation = (val_annotations, val_images)
    if whu is not None:
        return load_whu(whu, "train"), validation
    if annotations is not None or images is not None:
        if annotations is None or images is None:
            raise InputError("--annotations and --images belong together: give both")
        return load_coco(annotations, images, missing=missing), validation
    root = data or (Path(os.environ["RS4D_DATA"]) if os.environ.get("RS4D_DATA") else None)
    if root is None:
        raise InputError("no data: give --data DIR, --annotations with --images, --whu DIR, or set RS4D_DATA")
    folder = root / NWPU_FOLDER if (root / NWPU_FOLDER).is_dir() else root
    dataset = load_coco(folder / "train.json", folder / "images", missing=missing, name=f"{folder.name}-train")
    if validation is None and (folder / "val.json").is_file():
        validation = (folder / "val.json", folder / "images")
    return dataset, validation


def _shortened(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _settings(**values: Any) -> TrainSettings:
    try:
        return TrainSettings(**values)
    except ValueError as error:
        raise InputError(f"the options do not fit together: {error}") from error


def _evaluator(validation: tuple[Path, Path] | None, skip_missing: bool) -> Evaluate | None:
    if validation is None:
        return None
    annotations, images = validation

    def run(model: RS4D) -> dict[str, Any]:
        with Predictor.over(TorchRuntime(model), model.contract) as predictor:
            return evaluate(predictor, annotations, images, skip_missing=skip_missing)

    return run


def _report(
    trainer: Trainer, result: TrainResult, dataset: InstanceDataset, validation: tuple[Path, Path] | None
) -> None:
    if not result.finished:
        console.print(f"stopped at step {result.steps} after {result.elapsed_s / 60:.1f} min; continue with --resume")
        raise typer.Exit(130)
    card = write_card(trainer.out_dir, trainer.config, trainer.settings, dataset, result, validation)
    console.print(
        f"{result.steps} steps in {result.elapsed_s / 60:.1f} min; weights and {card.name} in {trainer.out_dir}"
    )


def main() -> None:
    """Run the command; a deliberate error ends it with its message and status 1."""
    run_app(app)


if __name__ == "__main__":
    main()
