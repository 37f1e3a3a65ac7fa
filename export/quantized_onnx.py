"""Quantized ONNX files. Calibrating leaves statistics of tensors; writing puts Q/DQ pairs around the chosen layers."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

from onnx import ModelProto

from rs4d_edge.calibration.layer_tensors import layers_to_restore_together, tensors_of_layers
from rs4d_edge.calibration.layers import EXACT_RESULTS, quantizable_layers
from rs4d_edge.calibration.qdq import insert_qdq
from rs4d_edge.calibration.sensitivity import ProbedModel
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.calibration.tensor_statistics import collect, load_statistics, save_statistics
from rs4d_edge.calibration.trained_ranges import with_trained_ranges
from rs4d_edge.export.graph import only_outputs, save_graph
from rs4d_edge.export.quantized_model import CalibrationRuns
from rs4d_edge.export.recipes import ScanForm
from rs4d_edge.export.sensitivity_onnx import write_probes
from rs4d_edge.export.watched_tensors import watching
from rs4d_edge.runtimes.onnxruntime_runtime import OnnxRuntime

_STATISTICS = "statistics.npz"


def open_quantizer(graph: ModelProto, settings: QuantizationSettings) -> OnnxQuantizer:
    """A quantizer of the layers of `graph` that may be; follows `rs4d_edge.export.quantizers.Quantizer`."""
    return OnnxQuantizer(graph, settings)


class OnnxQuantizer:
    """By our own Q/DQ pairs; follows `rs4d_edge.export.quantizers.Quantizer`."""

    tools = ("onnxruntime", "rs4d-edge")
    scan = ScanForm.FUNCTION

    def __init__(self, graph: ModelProto, settings: QuantizationSettings) -> None:
        self._graph, self._settings = graph, settings
        self._layers = [name for name in quantizable_layers(graph) if not EXACT_RESULTS.match(name)]

    def calibrate(self, runs: CalibrationRuns, folder: Path) -> None:
        """Write the statistics."""
        tensors = tensors_of_layers(self._graph, self._layers)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".float-") as work:
            path = save_graph(watching(self._graph, list(tensors)), Path(work, "model.onnx"))
            runtime = OnnxRuntime(path)
            try:
                statistics = collect(runtime, runs, tensors)
            finally:
                runtime.close()
        save_statistics(statistics, folder / _STATISTICS)

    def groups(self, calibration: Path) -> list[frozenset[str]]:
        """See `Quantizer`; the same for every calibration."""
        return layers_to_restore_together(self._graph, self._layers)

    def write(self, calibration: Path, restored: Collection[str], path: Path, features_path: Path) -> frozenset[str]:
        """Write the model without Q/DQ around the layers `restored`; see `Quantizer`."""
        layers, quantized = self._quantized(calibration, restored)
        save_graph(quantized, features_path)
        save_graph(only_outputs(quantized), path)
        return frozenset(layers)

    def probe(self, calibration: Path, restored: Collection[str], folder: Path) -> ProbedModel:
        """See `Quantizer`."""
        layers, quantized = self._quantized(calibration, restored)
        return write_probes(self._graph, quantized, layers, folder)

    def _quantized(self, calibration: Path, restored: Collection[str]) -> tuple[list[str], ModelProto]:
        layers = [name for name in self._layers if name not in restored]
        measured = load_statistics(calibration / _STATISTICS)
        statistics = with_trained_ranges(measured, self._graph, self._settings.trained_ranges)
        return layers, insert_qdq(self._graph, layers, statistics, self._settings)
