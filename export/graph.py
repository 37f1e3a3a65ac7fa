"""From the reference model to an ONNX graph of fixed shapes."""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib.metadata
import io
import itertools
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import onnxscript.optimizer
import torch
from onnx import GraphProto, ModelProto
from pydantic import ValidationError
from torch import Tensor, nn

from rs4d_edge.calibration.layers import names_read
from rs4d_edge.contract import INPUT_NAMES, OUTPUT_NAMES
from rs4d_edge.errors import ExportError, InputError
from rs4d_edge.export.scan_function import OPSET, add_scan_function
from rs4d_edge.export.translations import translation_table
from rs4d_edge.reference.config import DetectorConfig
from rs4d_edge.reference.detector import RS4D

IR_VERSION = 10  # what ONNX Runtime has read since 1.18
_MARK = "output:"  # keeps the outputs' names apart from those that the exporter invents
_SCOPES = "pkg.torch.onnx.name_scopes"
_INVENTED = re.compile(r"[a-z0-9_]+")  # names that say nothing of the module: val_12, unsqueeze_3
_FOLD_LIMIT = 1 << 26  # bytes of a constant that is worth computing ahead: anchors of the largest models take 5 MB


class FeatureView(nn.Module):
    """The model with its intermediate results as outputs, in the order in which they are computed."""

    def __init__(self, model: RS4D) -> None:
        super().__init__()
        self.model = model

    def forward(self, frame: Tensor, valid_hw: Tensor) -> tuple[Tensor, ...]:
        """The values of `RS4D.features`."""
        return tuple(self.model.features(frame, valid_hw).values())


def fit_model(model: RS4D, image_size_hw: tuple[int, int]) -> RS4D:
    """A copy of `model` in inference mode whose position embedding is stored for an input of `image_size_hw` pixels.

    So the export holds the embedding as a constant. Raises InputError for a size that the encoder cannot take.
    """
    config = model.config
    if image_size_hw == config.encoder.image_size_hw:
        return copy.deepcopy(model).eval()
    fields = config.model_dump()
    fields["encoder"]["image_size_hw"] = image_size_hw
    try:
        fitted = RS4D(DetectorConfig.model_validate(fields))
    except ValidationError as error:
        raise InputError(f"the image size {image_size_hw} does not fit {config.name}: {error}") from error
    backbone = copy.deepcopy(model.backbone)
    backbone.resize_position_embedding_(image_size_hw)
    state = model.state_dict() | {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    own = fitted.state_dict()
    fitted.load_state_dict({name: value for name, value in state.items() if name in own}, strict=True)
    return fitted.eval()


def example_inputs(image_size_hw: tuple[int, int], batch: int) -> tuple[Tensor, Tensor]:
    """A grey frame (batch, H, W, 3) and its valid size, for tracing; shapes matter, values do not."""
    frame = torch.full((batch, *image_size_hw, 3), 127, dtype=torch.uint8)
    return frame, torch.tensor([image_size_hw] * batch, dtype=torch.int64)


def translate(model: RS4D, batch: int = 1) -> ModelProto:
    """The model as ONNX, with every intermediate result of `RS4D.features` as an output, named as there.

    Inputs are `frame` and `valid_hw`. A mixer's core, or its scan, is a node of the domain `rs4d` with a body of
    standard operators.
    Raises ExportError.
    """
    inputs = example_inputs(model.config.encoder.image_size_hw, batch)
    with torch.inference_mode():
        names = tuple(model.features(*inputs))
    return translate_module(FeatureView(model).eval(), inputs, names)


def translate_module(module: nn.Module, inputs: tuple[Tensor, Tensor], names: Sequence[str]) -> ModelProto:
    """Any module that takes a frame and its valid size and answers with tensors, which are given `names`."""
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(INPUT_NAMES),
                output_names=[f"{_MARK}{name}" for name in names],
                custom_translation_table=translation_table(),
                optimize=True,
            )
            if program is None:
                raise ExportError("torch's exporter gave no program; export with a torch version that is supported")
            onnxscript.optimizer.optimize(program.model, input_size_limit=_FOLD_LIMIT, output_size_limit=_FOLD_LIMIT)
            translated: ModelProto = program.model_proto
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"torch could not translate the model to ONNX: {error}") from error
    return _finish(translated, names)


def only_outputs(model: ModelProto, names: Sequence[str] = OUTPUT_NAMES) -> ModelProto:
    """A copy with the outputs `names` alone, in this order, and without what only other outputs need."""
    needed = set(names)
    nodes = []
    for node in reversed(model.graph.node):  # ONNX keeps nodes in the order of computation
        if needed.intersection(node.output):
            nodes.append(node)
            needed |= names_read([node])
    outputs = {value.name: value for value in model.graph.output}
    graph = GraphProto(name=model.graph.name)
    graph.node.extend(reversed(nodes))
    graph.input.extend(model.graph.input)
    graph.output.extend(outputs[name] for name in names)
    graph.initializer.extend(held for held in model.graph.initializer if held.name in needed)
    graph.value_info.extend(value for value in model.graph.value_info if value.name in needed)
    graph.value_info.extend(value for name, value in outputs.items() if name in needed and name not in names)
    copied = ModelProto()
    copied.CopyFrom(model)
    copied.graph.CopyFrom(graph)
    return copied


def save_graph(model: ModelProto, path: Path) -> Path:
    """Check the graph and write it under a temporary name, then rename."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    try:
        onnx.save(model, temporary)
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would lock out other users of a shared folder
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _finish(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """Readable names, the outputs' own names, no notes of the exporter (they hold paths), and our nodes' bodies."""
    graph = model.graph
    rename = _readable_names(graph, reserved={*INPUT_NAMES, *names})
    rename |= {f"{_MARK}{name}": name for name in names}
    unnamed = {held.name for held in graph.initializer if _INVENTED.fullmatch(held.name)}
    for node in graph.node:
        for index, value in enumerate(node.input):
            if value in unnamed:
                rename.setdefault(value, f"{node.name}:in{index}")
    rename |= {
        held.name: held.name.removeprefix("model.") for held in graph.initializer if held.name.startswith("model.")
    }
    for node in graph.node:
        node.input[:] = [rename.get(name, name) for name in node.input]
        node.output[:] = [rename.get(name, name) for name in node.output]
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*graph.output, *graph.value_info):
        value.name = rename.get(value.name, value.name)
        del value.metadata_props[:]
    for held in (*graph.input, *graph.initializer):
        held.name = rename.get(held.name, held.name)
        del held.metadata_props[:]
    graph.name, graph.doc_string, model.doc_string = "rs4d", "", ""
    del graph.metadata_props[:], model.metadata_props[:]
    model.producer_name, model.producer_version = "rs4d-edge", importlib.metadata.version("rs4d-edge")
    entry = model.metadata_props.add()
    entry.key, entry.value = "rs4d_edge_version", model.producer_version
    return add_scan_function(model)


def _readable_names(graph: GraphProto, reserved: set[str]) -> dict[str, str]:
    """Name each node by the module that it came from, and its values after it; answers with old and new value names.

    The exporter notes the modules of each node, as a list in text: ['', 'neck', 'neck.lateral', 'conv2d'].
    """
    outputs = {value.name for value in graph.output}
    taken = set(reserved)
    rename: dict[str, str] = {}
    for node in graph.node:
        notes = {entry.key: entry.value for entry in node.metadata_props}
        scopes = ast.literal_eval(notes.get(_SCOPES, "[]"))
        module = scopes[-2].removeprefix("model").removeprefix(".") if len(scopes) > 1 else ""
        name = _unique(f"{module or 'graph'}/{node.op_type}", taken)
        node.name = name
        for index, value in enumerate(node.output):
            if value and value not in outputs:
                rename[value] = name if len(node.output) == 1 else f"{name}:{index}"
    return rename


def _unique(name: str, taken: set[str]) -> str:
    """`name`, with a number behind it if it is taken; marks it taken."""
    candidate = name
    for number in itertools.count(1):
        if candidate not in taken:
            break
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own progress lines and warnings; errors still come as exceptions."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
