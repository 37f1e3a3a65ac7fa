"""The scan and the mixer's core as operations of OpenVINO: the compiled extension, or the same kernels from Python.

Both read the nodes `SelectiveScan` (inputs u, delta, a, b, c, d; attribute `reverse`) and `MixerCore` (inputs
`MIXER_INPUTS`), in ONNX files (domain `rs4d`) and in IR files (set `extension`). The compiled extension is bound to one
exact version of OpenVINO and is built on the machine that uses it; it runs on the threads that OpenVINO was given.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino.frontend.onnx import ConversionExtension

from rs4d_edge.errors import InputError, RuntimeUnavailable
from rs4d_edge.native.build import build_openvino_extension, extension_path
from rs4d_edge.native.library import (
    MixerShape,
    NativeScan,
    NativeUnavailable,
    ScanShape,
    load_native_scan,
    native_hidden,
)
from rs4d_edge.runtimes.contract import Array

SCAN_OP, MIXER_OP = "SelectiveScan", "MixerCore"
SCAN_INPUTS = ("u", "delta", "a", "b", "c", "d")
MIXER_INPUTS = ("uz", "conv_weight", "conv_bias", "x_proj", "dt_proj", "dt_bias", "a", "d")
SCAN_DOMAIN = "rs4d"
_LOG = logging.getLogger(__name__)


def extension_available() -> bool:
    """Whether the compiled extension for the installed OpenVINO lies ready."""
    return not native_hidden() and extension_path().is_file()


def build_extension() -> Path:
    """Build the compiled extension in place (about 10 s) and return its path.

    Raises:
        RuntimeUnavailable: no compiler, a folder that cannot be written, or a failed build; says which.
    """
    return build_openvino_extension()


def add_scan_extension(core: openvino.Core, threads: int | None) -> str:
    """Teach `core` the scan, and say by which way: "c++" or "python".

    The compiled extension is built first if it is not there yet. Where that fails the Python operation takes over,
    with one warning: 3 to 10 ms slower for each scan. `threads` is for the latter; the compiled one takes OpenVINO's.

    Raises:
        NativeUnavailable: the native library is hidden, or neither way works; carries both reasons.
    """
    if native_hidden():
        load_native_scan()  # raises, and says what hides it
    reason = _compiled_extension_problem()
    if reason is None:
        core.add_extension(str(extension_path()))
        return "c++"
    try:
        scan = load_native_scan()
    except NativeUnavailable as error:
        raise NativeUnavailable(f"OpenVINO cannot run the scan: {error}; its extension: {reason}") from error
    _warn_once(reason)
    _add_python_ops(core, scan, threads)
    return "python"


@functools.cache
def _compiled_extension_problem() -> str | None:
    """Why the compiled extension cannot be used, after one attempt to build and load it; None if it can."""
    path = extension_path()
    try:
        if not path.is_file():
            _LOG.warning("building OpenVINO's scan extension, once for openvino %s", openvino.__version__)
            build_extension()
        openvino.Core().add_extension(str(path))
    except RuntimeUnavailable as error:
        return str(error)
    except RuntimeError as error:
        return f"{path} does not load: {error}"
    return None


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"OpenVINO calls the scan through Python, which is slower: {reason}", RuntimeWarning, stacklevel=3)


def _add_python_ops(core: openvino.Core, scan: NativeScan, threads: int | None) -> None:
    def add(op: type[openvino.Op]) -> None:
        def from_onnx(node: Any) -> list[openvino.Output]:
            inputs = [node.get_input(index) for index in range(node.get_input_size())]
            attributes = {"reverse": node.get_attribute("reverse", 0)} if op.__name__ == SCAN_OP else {}
            return list(op(inputs, **attributes).outputs())

        core.add_extension(op)
        core.add_extension(ConversionExtension(op.__name__, SCAN_DOMAIN, from_onnx))

    add(_python_scan(scan, threads or 0))
    add(_python_mixer(scan, threads or 0))


class _PythonOp(openvino.Op):  # type: ignore[misc]
    """What both operations share. The subclass's name is the node's type in an IR file."""

    def __init__(self, inputs: list[Any] | None = None, **attributes: int) -> None:
        self.attributes = attributes
        super().__init__(self, inputs)

    def clone_with_new_inputs(self, inputs: list[Any]) -> openvino.Node:
        return type(self)(list(inputs), **self.attributes)

    def visit_attributes(self, visitor: openvino.AttributeVisitor) -> bool:
        visitor.on_attributes(self.attributes)
        return True

    def has_evaluate(self) -> bool:
        return True


def _python_scan(scan: NativeScan, threads: int) -> type[openvino.Op]:
    class SelectiveScan(_PythonOp):
        def __init__(self, inputs: list[Any] | None = None, *, reverse: int = 0) -> None:
            super().__init__(inputs, reverse=reverse)

        def validate_and_infer_types(self) -> None:
            shapes = [self.get_input_partial_shape(index) for index in range(self.get_input_size())]
            if all(shape.is_static for shape in shapes):
                _scan_shape([tuple(shape.to_shape()) for shape in shapes])
            self.set_output_type(0, openvino.Type.f32, shapes[0])

        def evaluate(self, outputs: list[openvino.Tensor], inputs: list[openvino.Tensor]) -> bool:
            arrays = [tensor.data for tensor in inputs]
            shape = _scan_shape([array.shape for array in arrays])
            outputs[0].shape = arrays[0].shape
            reverse = bool(self.attributes["reverse"])
            scan.forward(_addresses(arrays), shape, outputs[0].data.ctypes.data, reverse=reverse, threads=threads)
            return True

    return SelectiveScan


def _python_mixer(scan: NativeScan, threads: int) -> type[openvino.Op]:
    idle: list[Array] = []  # workspaces of earlier calls; a call that finds none runs beside another

    class MixerCore(_PythonOp):
        def validate_and_infer_types(self) -> None:
            shapes = [self.get_input_partial_shape(index) for index in range(self.get_input_size())]
            if all(shape.is_static for shape in shapes):
                _mixer_shape([tuple(shape.to_shape()) for shape in shapes])
            uz, weight = shapes[:2]
            self.set_output_type(0, openvino.Type.f32, openvino.PartialShape([uz[0], uz[1], weight[0]]))

        def evaluate(self, outputs: list[openvino.Tensor], inputs: list[openvino.Tensor]) -> bool:
            arrays = [tensor.data for tensor in inputs]
            shape = _mixer_shape([array.shape for array in arrays])
            outputs[0].shape = (shape.batch, shape.length, shape.channels)
            floats = scan.mixer_workspace_floats(shape, threads=threads)
            try:
                workspace = idle.pop()
            except IndexError:
                workspace = np.empty(0, np.float32)
            if workspace.size < floats:
                workspace = np.empty(floats, np.float32)
            y, memory = outputs[0].data.ctypes.data, workspace.ctypes.data
            scan.mixer_core(_addresses(arrays), shape, y, memory, threads=threads)
            idle.append(workspace)
            return True

    return MixerCore


def _addresses(arrays: list[Array]) -> tuple[int, ...]:
    if any(array.dtype != np.float32 for array in arrays):
        raise InputError(f"the scan computes in fp32, but was given {[str(array.dtype) for array in arrays]}")
    return tuple(array.ctypes.data for array in arrays)


def _scan_shape(given: Sequence[tuple[int, ...]]) -> ScanShape:
    """The sizes, if the inputs agree on them: the kernel reads by address and could not notice."""
    if len(given) == len(SCAN_INPUTS) and (len(given[0]), len(given[2])) == (3, 2):
        (batch, length, channels), states = given[0], given[2][1]
        wide, narrow = (batch, length, channels), (batch, length, states)
        if list(given) == [wide, wide, (channels, states), narrow, narrow, (channels,)]:
            return ScanShape(batch, length, channels, states)
    came = ", ".join(f"{name} {shape}" for name, shape in zip(SCAN_INPUTS, given, strict=False))
    raise InputError(
        f"{SCAN_OP}: {came} do not go together; expected u and delta (B, L, E), a (E, N), b and c (B, L, N), d (E,): "
        "export the model again"
    )


def _mixer_shape(given: Sequence[tuple[int, ...]]) -> MixerShape:
    """The sizes, if the inputs agree on them: the kernel reads by address and could not notice."""
    if len(given) == len(MIXER_INPUTS) and [len(given[index]) for index in (0, 1, 4, 6)] == [3, 2, 2, 2]:
        (batch, length, _), (channels, taps), rank, states = given[0], given[1], given[4][1], given[6][1]
        narrow = rank + 2 * states
        wanted = [
            *((batch, length, 2 * channels), (channels, taps), (channels,), (narrow, channels), (channels, rank)),
            *((channels,), (channels, states), (channels,)),
        ]
        if list(given) == wanted:
            return MixerShape(batch, length, channels, states, rank, taps)
    came = ", ".join(f"{name} {shape}" for name, shape in zip(MIXER_INPUTS, given, strict=False))
    raise InputError(
        f"{MIXER_OP}: {came} do not go together; expected uz (B, L, 2E), conv_weight (E, K), conv_bias (E,), x_proj "
        "(R + 2N, E), dt_proj (E, R), dt_bias (E,), a (E, N), d (E,): export the model again"
    )
