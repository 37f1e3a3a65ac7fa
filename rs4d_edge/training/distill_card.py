"""The card that lies beside a distilled encoder: teacher, pictures, schedule, corruption and measured figures."""

from __future__ import annotations

from pathlib import Path

import torch

from rs4d_edge.training.card import CARD_NAME
from rs4d_edge.training.distill_settings import CorruptionSettings
from rs4d_edge.training.distillation import ENCODER_NAME, Distiller, DistillResult
from rs4d_edge.whole_file import write_text


def write_distill_card(name: str, distiller: Distiller, result: DistillResult) -> Path:
    """Writes `model_card.md` into the run's folder and returns its path. `name` is the student's preset."""
    settings, config, teacher = distiller.settings, distiller.encoder_config, distiller.teacher
    side = distiller.student_side
    length = f"{settings.epochs} epochs" if settings.epochs else f"{settings.max_minutes:g} minutes"
    weights = settings.loss
    lines = [
        f"# Encoder of {name}, distilled",
        "",
        f"`{ENCODER_NAME}` holds the encoder alone, begun from random weights, with averaged weights. It detects "
        f"nothing yet: begin fine-tuning with `rs4d-train --init {ENCODER_NAME}`.",
        "",
        f"- Student: {config.depth} layers, {config.channels} channels, trained at {side}x{side} pixels",
        f"- Teacher: `{teacher.name}` (SHA-256 {teacher.fingerprint[:16]}), {teacher.channels} channels on "
        f"{teacher.grid_hw[0]}x{teacher.grid_hw[1]}, input {teacher.preprocessing.side}x{teacher.preprocessing.side}",
        f"- Pictures: {result.images} to learn from, {result.held_out_images} kept apart, without labels",
        f"- Schedule: {length} ({result.steps} steps of {settings.batch} images, {result.elapsed_s / 60:.1f} minutes)",
        f"- Optimiser: AdamW, peak learning rate {settings.lr:g}, warm-up {settings.warmup_steps} steps, cosine, "
        f"weight decay {settings.weight_decay:g}, average of weights {settings.ema_decay:g}, {settings.precision}",
        f"- Loss: L1 {weights.l1:g}, cosine {weights.cosine:g}, {weights.layer_maps} maps in between "
        f"{weights.layers:g}",
        f"- Corruption of the student's input: {_described(settings.corruption)}; at the end noise "
        f"{distiller.levels.noise:.3f}, mask {distiller.levels.mask:.3f}",
        f"- Pictures shown: {'in eight orientations' if settings.turns else 'as they are'}, "
        f"{'whole' if settings.smallest_crop == 1 else f'crops from {settings.smallest_crop:g} of each side'}; teacher "
        f"{'from a cache in float16' if settings.cached else 'run along'} ({settings.teacher_precision})",
        f"- Seed: {settings.seed}; torch {torch.__version__}, {torch.get_num_threads()} threads",
        "",
        *_figures(result),
    ]
    path = distiller.out_dir / CARD_NAME
    write_text("\n".join(lines) + "\n", path)
    return path


def _described(corruption: CorruptionSettings) -> str:
    if corruption.mode == "none":
        return "none"
    if corruption.mode == "fixed":
        return f"fixed noise {corruption.noise:g} and mask {corruption.mask:g} in patches of {corruption.patch_px} px"
    return (
        f"adaptive, each to cost {corruption.target_cost:g} of what was learnt, noise up to {corruption.most_noise:g}, "
        f"mask up to {corruption.most_mask:g} in patches of {corruption.patch_px} px"
    )


def _figures(result: DistillResult) -> list[str]:
    if not result.held_out:
        return ["Not measured: no pictures were kept apart.", ""]
    figures = result.held_out
    return [
        f"On the {result.held_out_images} pictures kept apart, clean:",
        "",
        "| L1 to the teacher | L1 of each picture's mean embedding | learnt (1 - L1 / that) | 1 - cosine |",
        "| ---: | ---: | ---: | ---: |",
        f"| {figures['l1']:.4f} | {figures['constant']:.4f} | {figures['learnt']:.3f} | {figures['cosine']:.4f} |",
        "",
    ]
