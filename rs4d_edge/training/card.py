"""The model card that lies beside trained weights: data, schedule, seed and measured figures, as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.training.instances import InstanceDataset
from rs4d_edge.training.settings import TrainSettings
from rs4d_edge.training.trainer import BEST_NAME, TrainResult
from rs4d_edge.whole_file import write_text

CARD_NAME = "model_card.md"


def write_card(
    folder: Path,
    config: DetectorConfig,
    settings: TrainSettings,
    dataset: InstanceDataset,
    result: TrainResult,
    validation: tuple[Path, Path] | None,
) -> Path:
    """Writes `model_card.md` into the run's folder and returns its path. Nothing in it is typed by hand."""
    length = f"{settings.epochs} epochs" if settings.epochs else f"{settings.max_minutes:g} minutes"
    sizes = ", ".join(f"{stage.size} px ({stage.share:g})" for stage in settings.sizes)
    lines = [
        f"# {config.name}",
        "",
        f"Instance segmentation, `{config.head.value}` head, input "
        f"{config.encoder.image_size_hw[0]}x{config.encoder.image_size_hw[1]}, trained from "
        f"{settings.initial_weights or 'random weights'}.",
        "",
        f"- Data: `{dataset.name}`, {len(dataset.records)} images, {dataset.instance_count} instances; "
        f"classes: {', '.join(dataset.classes)}",
        f"- Schedule: {length} ({result.steps} steps of {settings.batch} images, {result.elapsed_s / 60:.1f} minutes), "
        f"sizes and shares {sizes}",
        f"- Optimiser: AdamW, peak learning rate {settings.lr:g}, warm-up {settings.warmup_steps} steps, cosine, "
        f"weight decay {settings.weight_decay:g}, average of weights {settings.ema_decay:g}, {settings.precision}",
        f"- Augmentation: {settings.augment.model_dump_json()}",
        *(
            ["- Learnt with the rounding of int8 (QAT), in the layers that an export may quantize"]
            if settings.qat
            else []
        ),
        f"- Seed: {settings.seed}; torch {torch.__version__}, {torch.get_num_threads()} threads",
        "",
    ]
    lines += _figures(result.best, validation)
    path = folder / CARD_NAME
    write_text("\n".join(lines) + "\n", path)
    return path


def _figures(best: dict[str, Any], validation: tuple[Path, Path] | None) -> list[str]:
    if not best or validation is None:
        return ["Not evaluated: the run had no validation data.", ""]
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    lines = [
        f"`{BEST_NAME}` (step {best['step']}, chosen by mask AP) on `{validation[0].name}`, {best['images']} images:",
        "",
        "| | " + " | ".join(names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for title, key in (("box", "bbox"), ("mask", "segm")):
        lines.append(f"| {title} | " + " | ".join(_figure(best[key][name]) for name in names) + " |")
    lines += ["", "| class | box AP50 | mask AP50 | mask AP |", "| --- | ---: | ---: | ---: |"]
    for name, masks in best["segm"]["per_class"].items():
        boxes = best["bbox"]["per_class"][name]
        lines.append(f"| {name} | {_figure(boxes['AP50'])} | {_figure(masks['AP50'])} | {_figure(masks['AP'])} |")
    return [*lines, ""]


def _figure(value: float | None) -> str:
    """Three decimals; a dash where there was nothing to find."""
    return "-" if value is None else f"{value:.3f}"
