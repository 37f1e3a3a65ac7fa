"""Post-training quantization of OpenVINO models by NNCF.

Weights become symmetric int8 with a scale for each output channel, inputs of the chosen layers int8 or uint8 with one
symmetric scale. SmoothQuant moves large input channels of the projections into their weights first (Xiao et al., 2023),
and biases take up the mean error that rounding leaves (Nagel et al., 2019).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping

import openvino

from rs4d_edge.calibration.calibration_set import Feeds
from rs4d_edge.calibration.identity import quantizer_tools
from rs4d_edge.calibration.layers import HIGH_PRECISION
from rs4d_edge.calibration.settings import QuantizationSettings
from rs4d_edge.errors import ExportError

_WEIGHTED = {"Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul"}


def quantize(
    model: openvino.Model,
    feeds: Iterable[Feeds],
    count: int,
    layers: Mapping[str, str],
    settings: QuantizationSettings,
) -> openvino.Model:
    """Quantize `layers` of `model` by what `count` runs on `feeds` show; answers with a new model.

    `layers` are names of nodes of the graph that `model` was read from, each with the name of its output, which
    OpenVINO may call the node by. `feeds` is iterated several times. The caller keeps the `Core` that holds the model's
    extensions. ExportError if NNCF fails or leaves a layer out.
    """
    versions = quantizer_tools(("nncf",))
    names = friendly_names(layers)
    import nncf  # here, because it takes seconds
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters

    advanced = AdvancedQuantizationParameters(disable_bias_correction=not settings.correct_biases)
    if not settings.smooth_projections:
        advanced.smooth_quant_alphas = AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)  # below 0: off
    try:
        with _quiet():
            quantized = nncf.quantize(
                model,
                nncf.Dataset(feeds),
                preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric
                target_device=nncf.TargetDevice.CPU,
                subset_size=count,
                # Of NNCF's model types this one alone brings SmoothQuant, on matrix products, and rounds neither the
                # residual stream nor the inputs of norms: in the tests' small model 25 tensors, with none of them 67.
                model_type=nncf.ModelType.TRANSFORMER,
                ignored_scope=nncf.IgnoredScope(
                    names=_others(model, set(names)),
                    patterns=[rf"^({pattern}).*" for pattern in HIGH_PRECISION.values()],
                    types=["Loop"],
                    validate=False,
                ),
                advanced_parameters=advanced,
            )
    except Exception as error:  # its errors have no common base class
        raise ExportError(f"NNCF could not quantize the model: {type(error).__name__} {error}") from error
    missed = sorted(set(layers) - {names[name] for name in int8_nodes(quantized) & set(names)})
    if missed:
        raise ExportError(f"NNCF {versions['nncf']} left {', '.join(missed)} in high precision")
    return quantized


def friendly_names(layers: Mapping[str, str]) -> dict[str, str]:
    """The names that OpenVINO may give to a layer's node, each with the layer (see `quantize`).

    A layer's product is called after the layer, with a suffix where the sum with its bias has the name, or after its
    output where a bias of zeros was left out.
    """
    return {
        friendly: layer for layer, output in layers.items() for friendly in (layer, f"{layer}/WithoutBiases", output)
    }


def int8_nodes(model: openvino.Model) -> set[str]:
    """The friendly names of the nodes of `model` whose weights are int8."""
    found = set()
    for node in weighted_nodes(model):
        weight = node.input_value(1).get_node()
        while weight.get_type_name() in ("Convert", "Multiply", "Subtract", "Reshape", "Transpose"):
            weight = weight.input_value(0).get_node()
        if weight.get_type_name() == "Constant" and weight.get_element_type() == openvino.Type.i8:
            found.add(node.get_friendly_name())
    return found


def _others(model: openvino.Model, names: Collection[str]) -> list[str]:
    """The friendly names of all nodes with weights but `names`."""
    return [node.get_friendly_name() for node in weighted_nodes(model) if node.get_friendly_name() not in names]


def weighted_nodes(model: openvino.Model) -> list[openvino.Node]:
    """The nodes of `model` with weights, or of the kinds that may have them, in the order of computation."""
    return [node for node in model.get_ordered_ops() if node.get_type_name() in _WEIGHTED]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without NNCF's progress bars and lists of nodes; errors still come as exceptions."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
