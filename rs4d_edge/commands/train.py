"""`rs4d-train`: train a preset on COCO-format instance masks (NWPU, SSDD, own data) or on WHU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import cv2
import torch
import typer
from rich.console import Console

from rs4d_edge.commands.terminal import run_app, stop_on_signals
from rs4d_edge.commands.train_data import evaluator, open_datasets
from rs4d_edge.errors import InputError
from rs4d_edge.reference.checkpoints import load_state
from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.presets import preset
from rs4d_edge.training.card import write_card
from rs4d_edge.training.growth import grow
from rs4d_edge.training.instances import InstanceDataset
from rs4d_edge.training.prompt_start import MASK_DECODER, start_as_box_prompts
from rs4d_edge.training.recipe import AUGMENT, as_yaml, merge, parse_assignments, recipe_layers
from rs4d_edge.training.report import write_report
from rs4d_edge.training.settings import TrainSettings, parse_sizes
from rs4d_edge.training.trainer import Trainer, TrainResult
from rs4d_edge.training.warm_start import warm_start, weights_path

Given = dict[str, Any]  # settings by name; None where an option was left out
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
    recipe: Annotated[
        str | None, typer.Option(help="nwpu, ssdd or whu, or a YAML file; the options below and --set go over it")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Length of the run in epochs")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Length of the run in minutes; the schedule fits it")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images per step")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate")] = None,
    warmup: Annotated[int | None, typer.Option(help="Warm-up steps")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's weight decay")] = None,
    ema_decay: Annotated[float | None, typer.Option(help="Decay of the weights' moving average")] = None,
    sizes: Annotated[str | None, typer.Option(help="Training sizes and shares, as 384:0.4,512:0.4,640:0.2")] = None,
    scale: Annotated[
        tuple[float, float] | None, typer.Option(help="Range of the random scale, relative to fitting")
    ] = None,
    mosaic: Annotated[float | None, typer.Option(help="Probability of a mosaic of images")] = None,
    copy_paste: Annotated[float | None, typer.Option(help="Probability of pasting another image's instances")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, order, augmentation and sampling")] = None,
    precision: Annotated[str | None, typer.Option(help="bf16-mixed or 32-true")] = None,
    evaluations: Annotated[int | None, typer.Option(help="Evaluations on the way, evenly spread")] = None,
    workers: Annotated[int | None, typer.Option(help="Data threads")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, as layer_decay=0.9 or augment.free_turn=0")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the merged settings as a recipe, and end")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch")] = None,
    limit: Annotated[int | None, typer.Option(help="Train on the first N images only (for trying things out)")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels that the model is made for (default: the preset's)")
    ] = None,
    init: Annotated[
        list[str] | None,
        typer.Option(help="Begin with what fits of this checkpoint file or shipped model; of several, the last wins"),
    ] = None,
    grow_from: Annotated[
        str | None, typer.Option("--grow", help="Begin as a smaller edge model: a checkpoint file or shipped model")
    ] = None,
    qat: Annotated[
        bool, typer.Option("--qat", help="Learn on from --init with the rounding of int8, by a short schedule")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out")] = False,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out annotated images that are missing")
    ] = False,
) -> None:
    """Train a model; weights with the best mask AP end in OUT/best.safetensors."""
    if init and grow_from is not None:
        raise InputError("--init and --grow both say how to begin: give one")
    dataset, validation = open_datasets(data, annotations, images, val_annotations, val_images, whu, skip_missing)
    if limit is not None:
        dataset = InstanceDataset(f"{dataset.name}-first-{limit}", dataset.classes, dataset.records[:limit])
    known = _known_config(init[-1]) if qat and init else None
    config = _config(known or preset(preset_name), dataset.classes, image_size)
    given = {
        "epochs": epochs,
        "max_minutes": max_minutes,
        "batch": batch,
        "lr": lr,
        "warmup_steps": warmup,
        "weight_decay": weight_decay,
        "ema_decay": ema_decay,
        "sizes": None if sizes is None else parse_sizes(sizes),
        "seed": seed,
        "precision": precision,
        "evaluations": evaluations,
        "data_workers": workers,
        "initial_weights": grow_from or " + ".join(init or []) or None,
    }
    augment = {"scale_range": scale, "mosaic": mosaic, "copy_paste": copy_paste}
    layers = recipe_layers(recipe, config, qat=qat)
    settings = _settings(config, layers, given, augment, assignments or [])
    if show:
        typer.echo(as_yaml(settings), nl=False)
        return
    if settings.qat and not init:
        raise InputError(
            "--qat learns on from a trained float model: give it with --init, as a checkpoint file or a shipped model"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    cv2.setNumThreads(1)  # the data threads are the parallelism; OpenCV's own pool would fight torch's
    torch.manual_seed(settings.seed)
    model = RS4D(config)
    console.print(
        f"{config.name}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters; {dataset.name}: "
        f"{len(dataset.records)} images, {dataset.instance_count} instances"
        + (f" ({dataset.skipped} images missing, left out)" if dataset.skipped else "")
    )
    if not resume:
        taken = _begin(model, init or [], grow_from, box_prompts=settings.box_prompts > 0)
        if settings.qat:
            _require_all(model, taken)
    trainer = Trainer(model, dataset, settings, out, evaluate=evaluator(validation, skip_missing), console=console)
    stop_on_signals(trainer.stop, console)
    result = trainer.run(resume=resume)
    _report(trainer, result, dataset, validation)


def _known_config(source: str) -> DetectorConfig | None:
    """The configuration in a checkpoint: one that learns on stays the model it is, whatever its preset has become."""
    config = load_state(weights_path(source))[1]
    return config if isinstance(config, DetectorConfig) else None


def _config(base: DetectorConfig, classes: tuple[str, ...], image_size: int | None) -> DetectorConfig:
    """The model for these classes and, if it is given, for another input size."""
    fields = base.model_dump() | {"classes": classes}
    if image_size is not None:
        fields["encoder"]["image_size_hw"] = (image_size, image_size)
    try:
        return DetectorConfig.model_validate(fields)
    except ValueError as error:
        raise InputError(f"--image-size {image_size} does not fit {base.name}: {error}") from error


def _settings(
    config: DetectorConfig,
    recipes: Sequence[dict[str, Any]],
    given: Given,
    augment: Given,
    assignments: Sequence[str],
) -> TrainSettings:
    """The recipes for this model, over them the options that were given, and over these what was set by name."""
    layers = [{AUGMENT: {"fit_size": max(config.encoder.image_size_hw)}}, *recipes]
    options, of_augment = (
        {name: value for name, value in each.items() if value is not None} for each in (given, augment)
    )
    return merge([*layers, options | {AUGMENT: of_augment}, parse_assignments(assignments)])


def _begin(model: RS4D, sources: Sequence[str], grow_from: str | None, *, box_prompts: bool) -> set[str]:
    """Begin with other weights than those that were drawn; with `box_prompts`, a prompt head that none of them has.

    Answers with the names of the values that were taken.
    """
    begun = (
        [(grow_from, grow(model, grow_from))] if grow_from else [(each, warm_start(model, each)) for each in sources]
    )
    for source, (taken, new) in begun:
        console.print(f"{len(taken)} values from {source}; {len(new)} new ones: {_shortened(new)}", soft_wrap=True)
    if box_prompts and not any(name.startswith(MASK_DECODER) for _, (taken, _) in begun for name in taken):
        start_as_box_prompts(model)
        console.print("the prompt head begins as SAM's box prompts")
    return {name for _, (taken, _) in begun for name in taken}


def _require_all(model: RS4D, taken: set[str]) -> None:
    """Raise InputError unless the whole model was taken: ranges measured behind random weights would mean nothing."""
    new = [name for name, value in model.state_dict().items() if value.is_floating_point() and name not in taken]
    if new:
        raise InputError(
            f"--qat learns on from a trained model for the same classes, and --init has no "
            f"{_shortened(new)}: train it first without --qat"
        )


def _shortened(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _report(
    trainer: Trainer, result: TrainResult, dataset: InstanceDataset, validation: tuple[Path, Path] | None
) -> None:
    if not result.finished:
        console.print(f"stopped at step {result.steps} after {result.elapsed_s / 60:.1f} min; continue with --resume")
        raise typer.Exit(130)
    card = write_card(trainer.out_dir, trainer.config, trainer.settings, dataset, result, validation)
    page = write_report(trainer.out_dir)
    console.print(
        f"{result.steps} steps in {result.elapsed_s / 60:.1f} min; weights, {card.name} and {page.name} in "
        f"{trainer.out_dir}"
    )


def main() -> None:
    """Run the command; a deliberate error ends it with its message and status 1."""
    run_app(app)


if __name__ == "__main__":
    main()
