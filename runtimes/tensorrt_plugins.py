"""A mixer's core, NMS and RoIAlign as TensorRT plugins, which TensorRT 10, 11 and TensorRT-RTX all take.

`register_plugins` is given the engine's Python module (`tensorrt` or `tensorrt_rtx`), so that nothing is imported
here that a device may lack. The plugins are class-based IPluginV3s. Engines are built with them, without a GPU.
`enqueue` launches the CUDA kernels of `rs4d_edge.native` on the engine's stream; it has not run on hardware yet. What
the operators are is said in `tensorrt_mixer_operators` and `tensorrt_selection_operators`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from rs4d_edge.errors import RuntimeFailure
from rs4d_edge.native.cuda_build import fatbin_path
from rs4d_edge.native.cuda_driver import CudaDriver, CudaKernels
from rs4d_edge.native.cuda_launch import Element
from rs4d_edge.native.cuda_nvrtc import compile_for
from rs4d_edge.runtimes.tensorrt_mixer_operators import MIXER_OPERATORS
from rs4d_edge.runtimes.tensorrt_operator import Buffers, Operator
from rs4d_edge.runtimes.tensorrt_selection_operators import SELECTION_OPERATORS

# An ONNX node finds its plugin by its operator and two attributes, both text: an integer version is read as empty.
PLUGIN_NAMESPACE, PLUGIN_VERSION = "rs4d", "1"
PLUGIN_OPERATORS = (*MIXER_OPERATORS, *SELECTION_OPERATORS)
PLUGIN_NAMES = tuple(operator.name for operator in PLUGIN_OPERATORS)
QUALIFIED_NAMES = tuple(f"{PLUGIN_NAMESPACE}::{name}" for name in PLUGIN_NAMES)  # as an engine's record has them

_registered: dict[str, list[Any]] = {}  # a registry keeps no reference to the creators that it is given


def register_plugins(trt: Any) -> None:
    """Make the plugins known to the engine's module `trt`; a second call changes nothing.

    Raises:
        RuntimeFailure: the engine refuses one, or another plugin of that name is registered.
    """
    registered = _registered.setdefault(trt.__name__, [])
    for operator in PLUGIN_OPERATORS[len(registered) :]:
        creator = _creator_class(trt, operator)()
        if not trt.get_plugin_registry().register_creator(creator, PLUGIN_NAMESPACE):
            raise RuntimeFailure(
                f"{trt.__name__} does not take the plugin {PLUGIN_NAMESPACE}::{operator.name} {PLUGIN_VERSION}: "
                "another one of that name is registered; load our plugins once only, in Python or as a library"
            )
        registered.append(creator)


@functools.cache
def _kernels() -> CudaKernels:
    """The kernels on the first GPU, loaded or compiled once in a process."""
    driver, built = CudaDriver(0), fatbin_path()
    return driver.load(built.read_bytes() if built.is_file() else compile_for(driver.architecture))


def _plugin_class(trt: Any, operator: Operator) -> type[Any]:
    """The plugin as a class of the engine's module; the methods' names and arguments are IPluginV3's."""
    elements: dict[Any, Element] = {trt.DataType.FLOAT: "f32", trt.DataType.HALF: "f16", trt.DataType.BF16: "bf16"}

    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    class OperatorPlugin(*bases):  # type: ignore[misc]  # known only at run time
        def __init__(self) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_name, self.plugin_namespace = operator.name, PLUGIN_NAMESPACE
            self.plugin_version = PLUGIN_VERSION
            self.num_outputs = 1

        def get_capability_interface(self, type: Any) -> Any:
            return self

        def clone(self) -> Any:
            return OperatorPlugin()

        def get_fields_to_serialize(self) -> Any:
            return trt.PluginFieldCollection([])

        def get_output_data_types(self, input_types: Any) -> Any:
            return [trt.DataType.INT32 if operator.int32_output else input_types[0]]

        def get_output_shapes(self, inputs: Any, shape_inputs: Any, expr_builder: Any) -> Any:
            def twice(size: Any) -> Any:
                return expr_builder.operation(trt.DimensionOperation.PROD, size, expr_builder.constant(2))

            return [trt.DimsExprs(list(operator.output_shape(inputs, twice)))]

        def supports_format_combination(self, pos: int, in_out: Any, num_inputs: int) -> bool:
            tensor, first = in_out[pos].desc, in_out[0].desc
            if tensor.format != trt.TensorFormat.LINEAR:
                return False
            if pos in operator.fp32_inputs:
                return bool(tensor.type == trt.DataType.FLOAT)
            if pos in operator.int32_inputs or (pos == num_inputs and operator.int32_output):
                return bool(tensor.type == trt.DataType.INT32)
            return bool(tensor.type == first.type and first.type in elements)

        def configure_plugin(self, inputs: Any, outputs: Any) -> None:
            pass

        def get_valid_tactics(self) -> list[int]:
            return []

        def set_tactic(self, tactic: int) -> None:
            pass

        def get_workspace_size(self, inputs: Any, outputs: Any) -> int:
            return operator.workspace_bytes([tuple(each.max) for each in inputs])

        def on_shape_change(self, inputs: Any, outputs: Any) -> None:
            pass

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def enqueue(
            self, input_desc: Any, output_desc: Any, inputs: Sequence[int], outputs: Any, workspace: int, stream: int
        ) -> None:
            dims = [tuple(each.dims) for each in input_desc]
            buffers = Buffers(elements[input_desc[0].type], inputs, outputs[0], workspace)
            operator.launch(_kernels(), dims, buffers, stream)

    return OperatorPlugin


def _creator_class(trt: Any, operator: Operator) -> type[Any]:
    """What makes a plugin of an ONNX node, or of a serialized engine; there is nothing to tell one by but its name."""
    plugin = _plugin_class(trt, operator)

    class OperatorPluginCreator(trt.IPluginCreatorV3One):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_namespace, self.plugin_version = operator.name, PLUGIN_NAMESPACE, PLUGIN_VERSION
            self.field_names = trt.PluginFieldCollection([])

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            return plugin()

    return OperatorPluginCreator
