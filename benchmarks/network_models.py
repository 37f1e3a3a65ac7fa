"""The edge models that are timed whole: trained where weights are at hand, else random and tuned to find something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from rs4d_edge.calibration.frames import prepare
from rs4d_edge.export.pipeline import export_bundle
from rs4d_edge.export.recipes import Recipe, Target
from rs4d_edge.frames import Frame
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.reference.loading import load
from rs4d_edge.reference.presets import preset
from rs4d_edge.reference.shipped import shipped_names

OBJECTS = 25  # that a model of random weights is tuned to find in the first frame
_GAIN = 60.0  # random heads begin so even that all scores would pass the threshold or none
_BACKGROUND = (-50.0, 50.0)  # between these biases everything is found, or nothing


class Candidate(NamedTuple):
    """A model to time, and where its weights are from."""

    model: RS4D
    weights: str


def candidate(name: str, checkpoint: Path | None, frame: Frame) -> Candidate:
    """The model `name`: from `checkpoint`, else the shipped weights, else random ones tuned on `frame`."""
    if checkpoint is not None:
        return Candidate(load(checkpoint), str(checkpoint))
    if name in shipped_names():
        return Candidate(load(name), "shipped")
    torch.manual_seed(0)
    model = RS4D(preset(name)).eval()
    found = tune_background(model, frame, OBJECTS)
    return Candidate(model, f"random, the background's bias tuned so that {found} objects are found")


@torch.inference_mode()
def tune_background(model: RS4D, frame: Frame, objects: int) -> int:
    """Shift the background's bias until about `objects` are found in `frame` (RGB); answers with how many are."""
    head, config = model.roi_head.bbox_head, model.config
    for layer in (model.rpn_head.rpn_cls, head.fc_cls):
        layer.weight.mul_(_GAIN)
    size_hw = config.encoder.image_size_hw
    (batch,) = prepare([frame], size_hw)
    inputs = (torch.from_numpy(batch.feeds[name]) for name in ("frame", "valid_hw"))
    features = model.features(*inputs)
    logits = features["class_logits"].clone()
    unshifted = logits[:, -1].clone()

    def count(bias: float) -> int:
        logits[:, -1] = unshifted + bias
        found = head.select(features["proposals"], logits, features["box_deltas"], size_hw)
        return int((found.scores > 0).sum())

    low, high = _BACKGROUND  # more are found at `low`
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) >= objects else (low, middle)
    head.fc_cls.bias[-1] += low
    return count(low)


def without_threshold(model: RS4D) -> RS4D:
    """The same weights with nothing dropped but what is beyond `max_detections`: the most that a frame can cost."""
    changes = {"score_threshold": 0.0, "nms_iou": 1.0, "name": f"{model.config.name}-all"}
    config = model.config.model_copy(update=changes)
    copy = RS4D(config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


def export(model: RS4D, target: Target, frames: Sequence[Frame], folder: Path, threads: int) -> Path:
    """A proven bundle of `model` for `target`, in fp32."""
    out = folder / f"{model.config.name}-{target.value}"
    recipe = Recipe(target=target, image_size_hw=model.config.encoder.image_size_hw)
    return export_bundle(model, recipe, out, frames=frames, threads=threads).path
