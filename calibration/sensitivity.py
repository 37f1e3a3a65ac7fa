"""Signal-to-quantization-noise: how large the error that rounding leaves in a tensor is, beside the tensor itself."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rs4d_edge.calibration.accuracy import ValidationSet
from rs4d_edge.errors import ExportError, InputError, RuntimeUnavailable

Array = npt.NDArray[Any]
PROPOSALS = "proposals"  # the result whose rows, boxes (B, N, 4), the layers of the RoI stage have theirs for
MOST_DB = 200.0  # what is exact has no noise to divide by; fp32 itself ends at about 150


@dataclass(frozen=True)
class SensitivityRequest:
    """Where the report goes, an HTML file, and on what the AP effect of the worst layers is measured, if at all."""

    page: Path
    validation: ValidationSet | None = None

    def __post_init__(self) -> None:
        if self.page.suffix.lower() != ".html":
            raise InputError(f"--sensitivity {self.page} must end in .html; the same as .json is put beside it")
        if not self.page.absolute().parent.is_dir() or self.page.is_dir():
            raise InputError(f"--sensitivity {self.page} cannot be written: name a file in a folder that is there")
        if importlib.util.find_spec("matplotlib") is None:
            raise RuntimeUnavailable(
                "--sensitivity needs the package matplotlib, which is not installed; run: pip install "
                '"rs4d-edge[quantize]"'
            )


@dataclass
class NoisePower:
    """Sums of squares over all that was added: of the exact values, and of what rounding changed in them."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, exact: Array, rounded: Array) -> None:
        """Two arrays of one shape. ExportError if the shapes differ or a value is not finite."""
        if exact.shape != rounded.shape:
            raise ExportError(f"a tensor of shape {exact.shape} has the shape {rounded.shape} once it is rounded")
        exact64, rounded64 = np.asarray(exact, dtype=np.float64), np.asarray(rounded, dtype=np.float64)
        signal, noise = float(np.square(exact64).sum()), float(np.square(rounded64 - exact64).sum())
        if not math.isfinite(signal + noise):
            raise ExportError("a tensor takes infinite values or NaN on the calibration frames")
        self.signal += signal
        self.noise += noise

    @property
    def sqnr_db(self) -> float | None:
        """10 log10 of signal over noise, from -200 to 200; None where nothing but zeros was seen."""
        if self.signal == self.noise == 0:
            return None
        if self.noise == 0 or self.signal == 0:
            return MOST_DB if self.signal else -MOST_DB
        return min(MOST_DB, max(-MOST_DB, 10 * math.log10(self.signal / self.noise)))


def sqnr_db(exact: Array, rounded: Array) -> float | None:
    """The ratio for one tensor; see `NoisePower`."""
    power = NoisePower()
    power.add(exact, rounded)
    return power.sqnr_db


class LayerProbe(NamedTuple):
    """Where a quantized layer's noise can be read.

    `weights_db`: the ratio of its weights, as they are rounded. `result` names the layer's output, behind its ReLU if
    it has one, in the float and in the quantized model; `source` and `rounded` name its input before and after
    rounding in the quantized model, scaled as SmoothQuant scales it.
    """

    layer: str
    weights_db: float | None
    result: str
    source: str
    rounded: str


class ProbedModel(NamedTuple):
    """Models for the target's runtime that show tensors of quantized layers, which are in the order of computation.

    `float_path` and `quantized_path` have the results of `layers` as outputs, and the proposals if the graph shows
    them; `roundings_path` is the quantized model with what is rounded and what comes of it. They are apart, because a
    tensor that is shown may keep an engine from fusing what is around it.
    """

    float_path: Path
    quantized_path: Path
    roundings_path: Path
    layers: tuple[LayerProbe, ...]
