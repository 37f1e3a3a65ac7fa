"""Quantized ONNX files. Calibrating leaves statistics of tensors; writing puts Q/DQ pairs around the chosen layers."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from onnx import ModelProto, ValueInfoProto

from rs4d_edge.calibration.layer_tensors import layers_to_restore_together, tensors_of_layers
from rs4d_edge.calibration.layers import quantizable_layers
from rs4d_edge.calibration.qdq import insert_qdq
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.calibration.tensor_statistics import collect, load_statistics, save_statistics
from rs4d_edge.errors import ExportError
from rs4d_edge.export.graph import only_outputs, save_graph
from rs4d_edge.export.quantized_model import CalibrationRuns
from rs4d_edge.export.recipes import ScanForm
from rs4d_edge.runtimes.onnxruntime_runtime import OnnxRuntime

_STATISTICS = "statistics.npz"
# A convolution is int8 only with a rounded result, and steps of 1/127 of the largest box delta are pixels of large
# boxes. The first one reads the normalised frame: ONNX Runtime would move the change of layout that int8 convolutions
# want up to the frame, whose three channels as the innermost axis make normalising it take 17 ms instead of 3.
_EXACT_RESULTS = re.compile(r"backbone\.stem\.stride4\.0\.|rpn_head\.rpn_(cls|reg)\b")


def open_quantizer(graph: ModelProto, settings: QuantizationSettings) -> OnnxQuantizer:
    """A quantizer of the layers of `graph` that may be; follows `rs4d_edge.export.quantized_model.Quantizer`."""
    return OnnxQuantizer(graph, settings)


class OnnxQuantizer:
    """By our own Q/DQ pairs; follows `rs4d_edge.export.quantized_model.Quantizer`."""

    tools = ("onnxruntime", "rs4d-edge")
    scan = ScanForm.FUNCTION

    def __init__(self, graph: ModelProto, settings: QuantizationSettings) -> None:
        self._graph, self._settings = graph, settings
        self._layers = [name for name in quantizable_layers(graph) if not _EXACT_RESULTS.match(name)]

    def calibrate(self, runs: CalibrationRuns, folder: Path) -> None:
        """Write the statistics."""
        tensors = tensors_of_layers(self._graph, self._layers)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".float-") as work:
            path = save_graph(_showing(self._graph, list(tensors)), Path(work, "model.onnx"))
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
        layers = [name for name in self._layers if name not in restored]
        statistics = load_statistics(calibration / _STATISTICS)
        quantized = insert_qdq(self._graph, layers, statistics, self._settings)
        save_graph(quantized, features_path)
        save_graph(only_outputs(quantized), path)
        return frozenset(layers)


def _showing(graph: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """A copy with the outputs `tensors` alone."""
    shown = ModelProto()
    shown.CopyFrom(graph)
    known: dict[str, ValueInfoProto] = {value.name: value for value in (*graph.graph.value_info, *graph.graph.output)}
    missing = [name for name in tensors if name not in known]
    if missing:
        raise ExportError(f"the shapes of {', '.join(missing)} are not known, so they cannot be watched")
    del shown.graph.output[:]
    shown.graph.output.extend(known[name] for name in tensors)
    return only_outputs(shown, tensors)
