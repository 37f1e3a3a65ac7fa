"""What quantizes for a target, behind one protocol."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from onnx import ModelProto

from rs4d_edge.calibration.sensitivity import ProbedModel
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.export.recipes import ScanForm, Target

if TYPE_CHECKING:
    from rs4d_edge.export.quantized_model import CalibrationRuns

_QUANTIZERS = {
    Target.CPU: "rs4d_edge.export.quantized_openvino",
    Target.ONNX: "rs4d_edge.export.quantized_onnx",
    Target.RTX: "rs4d_edge.export.quantized_onnx",
    Target.JETSON: "rs4d_edge.export.quantized_onnx",
}


class Quantizer(Protocol):
    """What a target's module offers as `open_quantizer(graph, layers, settings)`; `graph` has all outputs."""

    tools: tuple[str, ...]  # packages whose versions decide the numbers
    scan: ScanForm

    def calibrate(self, runs: CalibrationRuns, folder: Path) -> None:
        """The long part: run the model, and put whatever `write` needs into `folder`."""

    def groups(self, calibration: Path) -> list[frozenset[str]]:
        """Layers that are to be restored together for their numbers to be exact again, in the order of computation."""

    def write(self, calibration: Path, restored: Collection[str], path: Path, features_path: Path) -> frozenset[str]:
        """Write the model to `path`, with all outputs to `features_path`, but leave the layers `restored` as they were.

        `calibration` is the folder that `calibrate` filled. Answers with the layers that are quantized: layers that
        share a tensor with one of `restored` may be restored along with it.
        """

    def probe(self, calibration: Path, restored: Collection[str], folder: Path) -> ProbedModel:
        """Write models into `folder` that show the tensors around the quantized layers; the rest is as in `write`."""


class QuantizerModule(Protocol):
    """A module named in the table above."""

    def open_quantizer(self, graph: ModelProto, settings: QuantizationSettings) -> Quantizer:
        """A quantizer of the layers of `graph` that may be."""


def open_quantizer(target: Target, graph: ModelProto, settings: QuantizationSettings) -> Quantizer:
    """The target's quantizer of the layers of `graph` that may be; `graph` has all outputs."""
    module = cast(QuantizerModule, importlib.import_module(_QUANTIZERS[target]))
    return module.open_quantizer(graph, settings)
