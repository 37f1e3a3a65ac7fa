"""IR files that show what rounding does to the layers of a quantized OpenVINO model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import openvino

from rs4d_edge.calibration.post_training import weighted_nodes
from rs4d_edge.calibration.restoring import rounding_of, smoothed
from rs4d_edge.calibration.sensitivity import PROPOSALS, LayerProbe, ProbedModel, sqnr_db


def write_probes(
    model: openvino.Model,
    original: openvino.Model,
    names: Mapping[str, str],
    results: Mapping[str, str],
    folder: Path,
) -> ProbedModel:
    """Write the files into `folder`. `original` is `model` without int8.

    `names` are `friendly_names`; `results` the layers, in the order of computation, each with its result's tensor.
    """
    originals = {node.get_friendly_name(): node for node in original.get_ops()}
    found: dict[str, LayerProbe] = {}
    watched: dict[str, openvino.Output] = {}
    for node in weighted_nodes(model):
        rounding, layer = rounding_of(node), names.get(node.get_friendly_name())
        if rounding is None or layer is None:
            continue
        source, rounded = rounding.input_value(0), rounding.output(0)
        exact = smoothed(originals[node.get_friendly_name()].input_value(1).get_node().data, node, source.get_node())
        weights = openvino.compile_model(openvino.Model([node.input_value(1)], []), "CPU")([])[0]
        found[layer] = LayerProbe(layer, sqnr_db(exact, weights), results[layer], _named(source), _named(rounded))
        watched |= {found[layer].source: source, found[layer].rounded: rounded}
    probes = tuple(found[layer] for layer in results if layer in found)
    shown = list(dict.fromkeys(probe.result for probe in probes))
    shown += [PROPOSALS] * any(PROPOSALS in result.input_value(0).get_names() for result in original.get_results())
    paths = [folder / name for name in ("float.xml", "quantized.xml", "roundings.xml")]
    _save(original, [_tensors(original)[name] for name in shown], paths[0])
    _save(model, [_tensors(model)[name] for name in shown], paths[1])
    _save(model, list(watched.values()), paths[2])
    return ProbedModel(paths[0], paths[1], paths[2], probes)


def _named(output: openvino.Output) -> str:
    """The tensor's name; it is given one where it has none, as the outputs of a file need them."""
    if not output.get_names():
        output.add_names({f"{output.get_node().get_friendly_name()}:{output.get_index()}/tensor"})
    return str(output.get_any_name())


def _tensors(model: openvino.Model) -> dict[str, openvino.Output]:
    """All named tensors of `model`."""
    outputs = [output for node in model.get_ops() if node.get_type_name() != "Result" for output in node.outputs()]
    return {name: output for output in outputs for name in output.get_names()}


def _save(model: openvino.Model, outputs: Sequence[openvino.Output], path: Path) -> None:
    shown = openvino.Model(list(outputs), model.get_parameters(), model.get_friendly_name())
    openvino.save_model(shown, path, compress_to_fp16=False)
