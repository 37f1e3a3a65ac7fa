"""Quantized IR files. Calibrating leaves two models with all outputs, float and int8; writing mixes the two."""

from __future__ import annotations

import gc
from collections.abc import Collection, Sequence
from pathlib import Path

import openvino
from onnx import ModelProto

from rs4d_edge.calibration.layer_tensors import readers_of, result_of
from rs4d_edge.calibration.layers import layer_outputs, quantizable_layers
from rs4d_edge.calibration.post_training import friendly_names, int8_nodes, quantize
from rs4d_edge.calibration.restoring import quantized_groups, restore
from rs4d_edge.calibration.sensitivity import ProbedModel
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.contract import OUTPUT_NAMES
from rs4d_edge.errors import ExportError
from rs4d_edge.export.model_files import scan_form
from rs4d_edge.export.openvino_model import save_ir, scan_core
from rs4d_edge.export.quantized_model import CalibrationRuns
from rs4d_edge.export.sensitivity_openvino import write_probes

_FLOAT, _INT8 = "float.xml", "int8.xml"


def open_quantizer(graph: ModelProto, settings: QuantizationSettings) -> OpenVINOQuantizer:
    """A quantizer of the layers of `graph` that may be; follows `rs4d_edge.export.quantizers.Quantizer`."""
    return OpenVINOQuantizer(graph, settings)


class OpenVINOQuantizer:
    """By NNCF; follows `rs4d_edge.export.quantizers.Quantizer`."""

    tools = ("nncf", "openvino")

    def __init__(self, graph: ModelProto, settings: QuantizationSettings) -> None:
        self.scan = scan_form()
        self._graph, self._settings = graph, settings
        outputs = layer_outputs(graph)
        self._layers = {name: outputs[name] for name in quantizable_layers(graph)}
        readers = readers_of(graph)
        self._results = {node.name: result_of(node, readers) for node in graph.graph.node if node.name in self._layers}

    def calibrate(self, runs: CalibrationRuns, folder: Path) -> None:
        """Write both models."""
        save_ir(self._graph, folder / _FLOAT, self.scan)
        core = scan_core(self.scan)
        try:
            self._quantize(core, runs, folder)
        except RuntimeError as error:
            raise ExportError(f"OpenVINO cannot quantize the graph: {error}") from error
        finally:
            gc.collect()  # NNCF leaves cycles that hold the model, whose extension's code goes with the core

    def groups(self, calibration: Path) -> list[frozenset[str]]:
        """See `Quantizer`."""
        core = scan_core(self.scan)
        return self._groups(core, calibration)

    def write(self, calibration: Path, restored: Collection[str], path: Path, features_path: Path) -> frozenset[str]:
        """Write the model with the layers `restored` from the float one; see `Quantizer`."""
        core = scan_core(self.scan)
        try:
            return self._mix(core, calibration, set(restored), path, features_path)
        except RuntimeError as error:
            raise ExportError(f"OpenVINO cannot write {path}: {error}") from error

    def probe(self, calibration: Path, restored: Collection[str], folder: Path) -> ProbedModel:
        """See `Quantizer`."""
        core = scan_core(self.scan)
        try:
            return self._probe(core, calibration, set(restored), folder)
        except RuntimeError as error:
            raise ExportError(f"OpenVINO cannot write into {folder}: {error}") from error

    def _quantize(self, core: openvino.Core, runs: CalibrationRuns, folder: Path) -> None:
        """A function of its own, whose models are gone before `core` is; from a file, as NNCF wants it.

        What the frontend leaves beside a graph that it has just read, NNCF takes for lost nodes.
        """
        model = core.read_model(folder / _FLOAT)
        quantized = quantize(model, runs, len(runs), self._layers, self._settings)
        openvino.save_model(quantized, folder / _INT8, compress_to_fp16=False)

    def _groups(self, core: openvino.Core, calibration: Path) -> list[frozenset[str]]:
        return quantized_groups(core.read_model(calibration / _INT8), friendly_names(self._layers))

    def _mix(
        self, core: openvino.Core, calibration: Path, restored: set[str], path: Path, features_path: Path
    ) -> frozenset[str]:
        model, _ = self._mixed(core, calibration, restored)
        names = friendly_names(self._layers)
        openvino.save_model(model, features_path, compress_to_fp16=False)
        openvino.save_model(_with_outputs(model, OUTPUT_NAMES), path, compress_to_fp16=False)
        return frozenset(names[name] for name in int8_nodes(model) if name in names)

    def _probe(self, core: openvino.Core, calibration: Path, restored: set[str], folder: Path) -> ProbedModel:
        model, original = self._mixed(core, calibration, restored)
        return write_probes(model, original, friendly_names(self._layers), self._results, folder)

    def _mixed(
        self, core: openvino.Core, calibration: Path, restored: set[str]
    ) -> tuple[openvino.Model, openvino.Model]:
        """The int8 model with the layers `restored` from the float one, and the float one."""
        model, original = (core.read_model(calibration / name) for name in (_INT8, _FLOAT))
        names = friendly_names(self._layers)
        for group in quantized_groups(model, names):
            if group & restored:
                restore(model, original, group, names)
        return model, original


def _with_outputs(model: openvino.Model, names: Sequence[str]) -> openvino.Model:
    """The same nodes with the outputs `names` alone."""
    results = {result.input_value(0).get_any_name(): result for result in model.get_results()}
    return openvino.Model([results[name] for name in names], model.get_parameters(), model.get_friendly_name())
