"""Scales and zero points of int8 values: a scale for each output channel of weights, one for a tensor."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rs4d_edge.calibration.settings import QuantizationSettings

Floats = npt.NDArray[np.float32]
STEPS = 127  # on each side of zero; -128 is left out, as TensorRT does
SMALLEST = 1e-8  # of a largest value, so that dead tensors and channels get a scale, too


def weight_scale(weight: Floats, axis: int, settings: QuantizationSettings) -> Floats:
    """The scale of each channel along `axis`, (channels,)."""
    others = tuple(each for each in range(weight.ndim) if each != axis)
    scale = np.maximum(np.abs(weight).max(axis=others), SMALLEST) / STEPS
    return _stored(scale.astype(np.float32), settings)


def tensor_grid(
    largest: float, negative: bool, settings: QuantizationSettings
) -> tuple[Floats, npt.NDArray[np.generic]]:
    """Scale and zero point for values up to `largest`; see `qdq`."""
    signed = settings.signed
    zero = np.array(0, dtype=np.int8) if signed else np.array(128 if negative else 0, dtype=np.uint8)
    scale = np.array(max(largest, SMALLEST) / (STEPS if signed or negative else 255), dtype=np.float32)
    return _stored(scale, settings), zero


def half_scale(exact: Floats) -> Floats:
    """The next larger numbers that fp16 holds, so that nothing is cut that was not.

    Values are rounded by the scale as it is stored, so that a coarse one costs steps and adds no error of its own: at
    most 1 in 1000 of them where the largest value passes 0.008. Below, fp16's numbers get sparse, down to 6e-8. A scale
    above all of them stays as it is.
    """
    with np.errstate(over="ignore"):
        nearest = exact.astype(np.float16)
        larger = np.where(nearest < exact, np.nextafter(nearest, np.float16(np.inf)), nearest).astype(np.float32)
    return np.where(np.isfinite(larger), larger, exact)


def _stored(scale: Floats, settings: QuantizationSettings) -> Floats:
    return half_scale(scale) if settings.half_scales else scale
