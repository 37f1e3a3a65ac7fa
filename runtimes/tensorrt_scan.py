"""The selective scan as a TensorRT plugin: a class-based IPluginV3, which TensorRT 10, 11 and TensorRT-RTX all take.

`register_scan_plugin` is given the engine's Python module (`tensorrt` or `tensorrt_rtx`), so that nothing is imported
here that a device may lack. Engines are built with it, without a GPU. `enqueue` launches the CUDA kernels of
`rs4d_edge.native` on the engine's stream; it has not run on hardware yet.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from rs4d_edge.errors import RuntimeFailure
from rs4d_edge.native.cuda_build import fatbin_path
from rs4d_edge.native.cuda_driver import CudaDriver, CudaKernels
from rs4d_edge.native.cuda_launch import Element, ScanArrays, ScanPlan, launch_scan, plan_scan
from rs4d_edge.native.cuda_nvrtc import compile_for
from rs4d_edge.native.library import ScanShape

# An ONNX node finds the plugin by its operator and two attributes, both text: an integer version is read as empty.
PLUGIN_NAME, PLUGIN_NAMESPACE, PLUGIN_VERSION = "SelectiveScan", "rs4d", "1"
_INPUTS = ("u", "delta", "a", "b", "c", "d")  # u, delta (B, L, E); a (E, N); b, c (B, L, N); d (E)
_ALWAYS_FP32 = ("a", "d")
_REVERSE = "reverse"
_MANY_PROCESSORS = 1 << 12  # more than a GPU has: the plan for them is cut into the most segments

_registered: dict[str, Any] = {}  # a registry keeps no reference to the creators that it is given


def register_scan_plugin(trt: Any) -> None:
    """Make the plugin known to the engine's module `trt`; a second call changes nothing.

    Raises:
        RuntimeFailure: the engine refuses it, or another plugin of that name is registered.
    """
    if trt.__name__ in _registered:
        return
    creator = _creator_class(trt)()
    if not trt.get_plugin_registry().register_creator(creator, PLUGIN_NAMESPACE):
        raise RuntimeFailure(
            f"{trt.__name__} does not take the plugin {PLUGIN_NAMESPACE}::{PLUGIN_NAME} {PLUGIN_VERSION}: another one "
            "of that name is registered; load one scan plugin only"
        )
    _registered[trt.__name__] = creator


def workspace_bytes(shape: ScanShape) -> int:
    """What any GPU may need beside the tensors: engines are built where the GPU's size is not known."""
    return 4 * plan_scan(shape, 1, _MANY_PROCESSORS).carry_floats


@functools.cache
def _kernels() -> CudaKernels:
    """The kernels on the first GPU, loaded or compiled once in a process."""
    driver, built = CudaDriver(0), fatbin_path()
    return driver.load(built.read_bytes() if built.is_file() else compile_for(driver.architecture))


def _shape(dims: Sequence[Sequence[int]]) -> ScanShape:
    """From the dimensions of all inputs."""
    batch, length, channels = dims[_INPUTS.index("u")]
    return ScanShape(batch, length, channels, dims[_INPUTS.index("a")][1])


def launch(
    shape: ScanShape,
    element: Element,
    addresses: Sequence[int],
    y: int,
    workspace: int,
    stream: int,
    *,
    reverse: bool,
    kernels: CudaKernels,
) -> ScanPlan:
    """Put one scan onto `stream`: device addresses of the six inputs, of y and of `workspace_bytes`, all dense."""
    plan = plan_scan(shape, 1, kernels.driver.multiprocessors)
    carry = workspace if plan.carry_floats else 0
    u, delta, a, b, c, d = addresses
    arrays = ScanArrays(u, delta, a, b, c, d, y)
    launch_scan(kernels, plan, element, arrays, reverse=reverse, carry=carry, stream=stream)
    return plan


def _plugin_class(trt: Any) -> type[Any]:
    """The plugin as a class of the engine's module; the methods' names and arguments are IPluginV3's."""
    elements: dict[Any, Element] = {trt.DataType.FLOAT: "f32", trt.DataType.HALF: "f16", trt.DataType.BF16: "bf16"}

    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)

    class SelectiveScan(*bases):  # type: ignore[misc]  # known only at run time
        def __init__(self, reverse: bool) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_name, self.plugin_namespace = PLUGIN_NAME, PLUGIN_NAMESPACE
            self.plugin_version = PLUGIN_VERSION
            self.num_outputs = 1
            self.reverse = reverse

        def get_capability_interface(self, type: Any) -> Any:
            return self

        def clone(self) -> Any:
            return SelectiveScan(self.reverse)

        def get_fields_to_serialize(self) -> Any:
            value = np.array([int(self.reverse)], dtype=np.int32)
            return trt.PluginFieldCollection([trt.PluginField(_REVERSE, value, trt.PluginFieldType.INT32)])

        def get_output_data_types(self, input_types: Any) -> Any:
            return [input_types[0]]

        def get_output_shapes(self, inputs: Any, shape_inputs: Any, expr_builder: Any) -> Any:
            return [trt.DimsExprs(inputs[0])]

        def supports_format_combination(self, pos: int, in_out: Any, num_inputs: int) -> bool:
            tensor, first = in_out[pos].desc, in_out[0].desc
            if tensor.format != trt.TensorFormat.LINEAR:
                return False
            if pos < num_inputs and _INPUTS[pos] in _ALWAYS_FP32:
                return bool(tensor.type == trt.DataType.FLOAT)
            return bool(tensor.type == first.type and first.type in elements)

        def configure_plugin(self, inputs: Any, outputs: Any) -> None:
            pass

        def get_valid_tactics(self) -> list[int]:
            return []

        def set_tactic(self, tactic: int) -> None:
            pass

        def get_workspace_size(self, inputs: Any, outputs: Any) -> int:
            return workspace_bytes(_shape([tuple(each.max) for each in inputs]))

        def on_shape_change(self, inputs: Any, outputs: Any) -> None:
            pass

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def enqueue(
            self, input_desc: Any, output_desc: Any, inputs: Any, outputs: Any, workspace: int, stream: int
        ) -> None:
            launch(
                _shape([tuple(each.dims) for each in input_desc]),
                elements[input_desc[0].type],
                inputs,
                outputs[0],
                workspace,
                stream,
                reverse=self.reverse,
                kernels=_kernels(),
            )

    return SelectiveScan


def _creator_class(trt: Any) -> type[Any]:
    """What makes a plugin of an ONNX node's attributes, or of a serialized engine's fields."""
    plugin = _plugin_class(trt)

    class SelectiveScanCreator(trt.IPluginCreatorV3One):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_namespace, self.plugin_version = PLUGIN_NAME, PLUGIN_NAMESPACE, PLUGIN_VERSION
            field = trt.PluginField(_REVERSE, np.array([0], dtype=np.int32), trt.PluginFieldType.INT32)
            self.field_names = trt.PluginFieldCollection([field])

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            given = {field.name: int(np.asarray(field.data).reshape(-1)[0]) for field in fields}
            return plugin(bool(given.get(_REVERSE, 0)))

    return SelectiveScanCreator
