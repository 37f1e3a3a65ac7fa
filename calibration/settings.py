"""How a model is quantized: the part of a calibration's identity that a user decides."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from rs4d_edge.calibration.layers import HIGH_PRECISION
from rs4d_edge.quantization_record import Setting


class QuantizationSettings(BaseModel):
    """Weights are always symmetric int8 with a scale for each output channel, inputs symmetric with one scale.

    `smooth_projections`: SmoothQuant ahead of matrix products. `correct_biases`: fast bias correction. `signed`: in
    ONNX files int8 for tensors that are never negative, too. TensorRT takes nothing else; ONNX Runtime fuses a ReLU
    only with uint8, and uint8 has steps half as large.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    smooth_projections: bool = True
    correct_biases: bool = True
    signed: bool = False

    def record(self) -> dict[str, Setting]:
        """For the manifest, with the patterns of what stays in high precision."""
        kept = {f"high precision: {group}": pattern for group, pattern in HIGH_PRECISION.items()}
        return {**self.model_dump(), **kept}
