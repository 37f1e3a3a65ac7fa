"""By what a calibration is known: weights, frames, preprocessing, settings and tools."""

from __future__ import annotations

import hashlib
import importlib.metadata

from rs4d_edge.calibration.calibration_set import CalibrationSet
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.manifest import WeightsRecord
from rs4d_edge.quantization_record import CalibrationIdentity


def identify(
    weights: WeightsRecord,
    frames: CalibrationSet,
    image_size_hw: tuple[int, int],
    batch: int,
    settings: QuantizationSettings,
    tools: tuple[str, ...] = ("nncf", "openvino"),
) -> CalibrationIdentity:
    """The identity of a calibration on `frames`, prepared for an input of `image_size_hw` pixels and `batch` frames."""
    pixels, fed = frames.digests(image_size_hw, batch)
    return CalibrationIdentity(
        weights=weights.sha256,
        frames=pixels,
        preprocessing=fed,
        settings=settings.record(),
        tools=quantizer_tools(tools),
    )


def key_of(identity: CalibrationIdentity) -> str:
    """SHA-256 of all that `identity` holds."""
    return hashlib.sha256(identity.model_dump_json().encode()).hexdigest()


def quantizer_tools(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of what decides the numbers of a calibration. RuntimeUnavailable where one is not installed."""
    try:
        return {name: importlib.metadata.version(name) for name in packages}
    except importlib.metadata.PackageNotFoundError as error:
        raise RuntimeUnavailable(
            f'int8 needs the package {error.name}, which is not installed; run: pip install "rs4d-edge[quantize]"'
        ) from error
