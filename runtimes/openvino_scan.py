"""The selective scan as an operation of OpenVINO: the compiled extension, or the same kernel called from Python.

Both read the node `SelectiveScan`, in ONNX files (domain `rs4d`) and in IR files (set `extension`), with the inputs u,
delta, a, b, c, d and the attribute `reverse`. The compiled one is bound to one exact version of OpenVINO and is built
on the machine that uses it; it runs on the threads that OpenVINO was given.
"""

from __future__ import annotations

import functools
import logging
import warnings
from pathlib import Path
from typing import Any

import openvino
from openvino.frontend.onnx import ConversionExtension

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.native.build import build_openvino_extension, extension_path
from rs4d_edge.native.library import NativeScan, NativeUnavailable, ScanShape, load_native_scan, native_hidden

SCAN_OP = "SelectiveScan"
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
    _add_python_scan(core, scan, threads)
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


def _add_python_scan(core: openvino.Core, scan: NativeScan, threads: int | None) -> None:
    class SelectiveScan(openvino.Op):  # type: ignore[misc]
        """The node for this core's thread count. The class's name is the node's type in an IR file."""

        def __init__(self, inputs: list[Any] | None = None, *, reverse: int = 0) -> None:
            self.attributes = {"reverse": reverse}
            super().__init__(self, inputs)

        def validate_and_infer_types(self) -> None:
            self.set_output_type(0, openvino.Type.f32, self.get_input_partial_shape(0))

        def clone_with_new_inputs(self, inputs: list[Any]) -> openvino.Node:
            return SelectiveScan(list(inputs), reverse=self.attributes["reverse"])

        def visit_attributes(self, visitor: openvino.AttributeVisitor) -> bool:
            visitor.on_attributes(self.attributes)
            return True

        def has_evaluate(self) -> bool:
            return True

        def evaluate(self, outputs: list[openvino.Tensor], inputs: list[openvino.Tensor]) -> bool:
            arrays = [tensor.data for tensor in inputs]
            batch, length, channels = arrays[0].shape
            outputs[0].shape = arrays[0].shape
            addresses = tuple(array.ctypes.data for array in arrays)
            shape = ScanShape(batch, length, channels, arrays[2].shape[1])
            reverse = bool(self.attributes["reverse"])
            scan.forward(addresses, shape, outputs[0].data.ctypes.data, reverse=reverse, threads=threads or 0)
            return True

    def from_onnx(node: Any) -> list[openvino.Output]:
        inputs = [node.get_input(index) for index in range(node.get_input_size())]
        return list(SelectiveScan(inputs, reverse=node.get_attribute("reverse", 0)).outputs())

    core.add_extension(SelectiveScan)
    core.add_extension(ConversionExtension(SCAN_OP, SCAN_DOMAIN, from_onnx))
