"""How a model is quantized: the part of a calibration's identity that a user decides."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from rs4d_edge.calibration.layers import HIGH_PRECISION
from rs4d_edge.calibration.trained_ranges import Ranges, read_ranges
from rs4d_edge.quantization_record import Setting


class QuantizationSettings(BaseModel):
    """Weights are always symmetric int8 with a scale for each output channel, inputs symmetric with one scale.

    `smooth_projections`: SmoothQuant ahead of matrix products. `correct_biases`: fast bias correction. `signed`: in
    ONNX files int8 for tensors that are never negative, too. TensorRT takes nothing else; ONNX Runtime fuses a ReLU
    only with uint8, and uint8 has steps half as large. `half_scales`: scales that fp16 holds exactly, for graphs whose
    layers have fp16 around them. `trained_ranges`: those of a model that learnt with rounding,
    which ONNX files take in place of measured ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    smooth_projections: bool = True
    correct_biases: bool = True
    signed: bool = False
    half_scales: bool = False
    trained_ranges: Ranges = {}

    @classmethod
    def of_checkpoint(cls, metadata: Mapping[str, str]) -> QuantizationSettings:
        """What fits a checkpoint with this metadata.

        One that learnt with rounding is quantized as it learnt: its biases hold the mean errors already, and smoothed
        inputs and weights would be rounded in other places.
        """
        ranges = read_ranges(metadata)
        plain = not ranges
        return cls(smooth_projections=plain, correct_biases=plain, trained_ranges=ranges)

    def record(self) -> dict[str, Setting]:
        """For the manifest, with the patterns of what stays in high precision."""
        kept = {f"high precision: {group}": pattern for group, pattern in HIGH_PRECISION.items()}
        trained = {"trained_ranges": len(self.trained_ranges)} if self.trained_ranges else {}
        return {**self.model_dump(exclude={"trained_ranges"}), **trained, **kept}
