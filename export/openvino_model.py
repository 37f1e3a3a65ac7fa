"""From the ONNX graph to OpenVINO's IR."""

from __future__ import annotations

from pathlib import Path

import openvino
from onnx import ModelProto

from rs4d_edge.errors import ExportError, RuntimeUnavailable
from rs4d_edge.export.recipes import ScanForm
from rs4d_edge.export.scan_function import has_scan, inline_scan, without_scan_function


def scan_extension_works() -> bool:
    """Whether the scan extension can be found or built on this machine."""
    return _core_with_scan() is not None


def save_ir(model: ModelProto, path: Path, form: ScanForm) -> Path:
    """Convert to `path` (.xml, with the weights beside it in .bin), weights in fp32."""
    core, source = core_and_source(model, form)
    names = [value.name for value in model.graph.output]
    try:
        _convert(core, source, names, path)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot convert the graph: {error}") from error
    return path


def _convert(core: openvino.Core, source: ModelProto, names: list[str], path: Path) -> None:
    """A function of its own, whose objects are gone before `core` is: the extension's code goes with the core."""
    openvino.save_model(named_model(core, source, names), path, compress_to_fp16=False)


def scan_core(form: ScanForm) -> openvino.Core:
    """A core that reads models with the scan in `form`. It must outlive them."""
    if form is not ScanForm.NATIVE:
        return openvino.Core()
    core = _core_with_scan()
    if core is None:
        raise ExportError("the scan extension is not there; export with the plain scan")
    return core


def core_and_source(model: ModelProto, form: ScanForm) -> tuple[openvino.Core, ModelProto]:
    """The core that reads `model` with its scans in `form`, and what it is to read."""
    if form is ScanForm.NATIVE and has_scan(model):
        return scan_core(form), without_scan_function(model)
    return scan_core(ScanForm.PLAIN), inline_scan(model)


def named_model(core: openvino.Core, source: ModelProto, names: list[str]) -> openvino.Model:
    """`source` as OpenVINO's model, whose outputs have `names` alone."""
    converted = core.read_model(source.SerializeToString())
    for name, output in zip(names, converted.outputs, strict=True):
        output.get_tensor().set_names({name})
    return converted


def _core_with_scan() -> openvino.Core | None:
    from rs4d_edge.runtimes.openvino_scan import add_scan_extension

    core = openvino.Core()
    try:
        add_scan_extension(core, None)
    except RuntimeUnavailable:
        return None
    return core
