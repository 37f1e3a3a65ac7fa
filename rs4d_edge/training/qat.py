"""Quantization-aware training: a trained model learns on with the rounding of int8, for when calibrating is not enough.

Rounded are the layers that an export may quantize, at the places where its Q/DQ graph rounds (`qat_layers`); scans,
mixers' cores and mask heads stay as they are. Sources: Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference" (CVPR 2018); Krishnamoorthi (arXiv 1806.08342).

Scales of weights follow the weights. Those of tensors are measured once, on the float model and by calibration's rule,
and stay: learning them (LSQ, Esser et al., ICLR 2020) was made for 2 to 4 bits, and a scale that was learnt would hold
in some exports only, because NNCF measures anew for OpenVINO. So every target rounds about as the training did.

SmoothQuant and bias correction are not trained with, and an export of such a checkpoint leaves them out: one would
round other numbers than the trained ones, the other take out a mean error that the biases have learnt already.
"""

from __future__ import annotations

import numpy as np
import torch

from rs4d_edge.calibration.calibration_set import CalibrationSet
from rs4d_edge.calibration.trained_ranges import RANGES_KEY, TrainedRange, ranges_as_text
from rs4d_edge.contract import INPUT_NAMES
from rs4d_edge.errors import CheckpointError
from rs4d_edge.reference.detector import RS4D
from rs4d_edge.training.instances import InstanceDataset
from rs4d_edge.training.qat_layers import install
from rs4d_edge.training.qat_rounding import RoundedTensors

StoredRanges = dict[str, tuple[float, bool]]  # as a run's state holds them


class Rounding:
    """The rounding of a run: in the model that learns and in the one with averaged weights that is evaluated."""

    def __init__(self, *models: RS4D) -> None:
        self._tensors = RoundedTensors()
        for model in models:
            install(model, self._tensors)

    @torch.no_grad()
    def measure(self, model: RS4D, dataset: InstanceDataset, images: int) -> None:
        """Take the ranges of all tensors from `images` images of the data set, run without rounding one by one.

        They are fed as the Predictor feeds them, at even distances through the data set. Leaves the model in evaluation
        mode.
        """
        model.eval()
        device = model.pixel_mean.device
        self._tensors.observe()
        for feeds in _calibration_set(dataset, images).feeds(model.config.encoder.image_size_hw, batch=1):
            model(*(torch.from_numpy(feeds[name]).to(device) for name in INPUT_NAMES))
        self._tensors.settle()

    def stored(self) -> StoredRanges:
        """The ranges as plain values."""
        return {key: (held.largest, held.negative) for key, held in self._tensors.ranges.items()}

    def restore(self, stored: StoredRanges) -> None:
        """Go on with ranges of an earlier run."""
        self._tensors.ranges = {key: TrainedRange(*held) for key, held in stored.items()}

    def metadata(self) -> dict[str, str]:
        """For a checkpoint: what an export needs to round as here."""
        return {RANGES_KEY: ranges_as_text(self._tensors.ranges)}


def check_resumed(rounding: Rounding | None, stored: StoredRanges) -> None:
    """Raise CheckpointError where a run with rounding would go on without, or the other way round."""
    if (rounding is not None) == bool(stored):
        return
    found, now = ("with", "without") if stored else ("without", "with")
    raise CheckpointError(
        f"the saved run was trained {found} rounding (qat) and would go on {now}; "
        f"resume it {'with' if stored else 'without'} --qat, or begin a new one in another folder"
    )


def _calibration_set(dataset: InstanceDataset, count: int) -> CalibrationSet:
    """At most `count` images of the data set."""
    last = len(dataset.records) - 1
    chosen = sorted({round(place) for place in np.linspace(0, last, min(count, last + 1))})
    return CalibrationSet(dataset.name, tuple(dataset.records[index].path for index in chosen))
