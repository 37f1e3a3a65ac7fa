"""OpenVINO on the CPU, in fp32, bf16 or int8, one frame at a time; fp16 is converted to fp32.

A model that holds the scan or the mixer's core as a native node needs the scan extension, which `openvino_scan` finds
or builds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino

from rs4d_edge.errors import ClosedError, InputError, RuntimeFailure, RuntimeUnavailable
from rs4d_edge.runtimes.contract import Array, TensorSpec, check_feeds, check_file, fixed_shape

# What is int8 stands in the model itself; the hint is for all the rest of it. fp16 is computed in fp32: told f16,
# OpenVINO 2026.4 computes in bf16 without a word on x86 that has bf16 and not fp16, and would take the islands of fp32
# along wherever it has fp16.
PRECISION_HINTS = {
    "fp32": "f32",
    "fp16": "f32",
    "bf16": "bf16",
    "int8": "f32",
    "int8-bf16": "bf16",
    "int8-fp16": "f32",
}
_SCAN_TAG = re.compile(rb'type="(SelectiveScan|MixerCore)"')  # how an IR file spells the native nodes


def open_model(model_path: Path, *, threads: int | None, precision: str) -> OpenVINORuntime:
    """Load an OpenVINO IR (.xml beside its .bin) or an ONNX file of plain operators."""
    check_file(model_path)
    return OpenVINORuntime(model_path, threads=threads, precision=precision)


class OpenVINORuntime:
    """One compiled model and its one request. Follows `rs4d_edge.runtimes.contract.Runtime`.

    The precision is always told to the engine: left alone it computes in bf16 wherever the processor can.
    """

    def __init__(self, model_path: Path, *, threads: int | None = None, precision: str = "fp32") -> None:
        options = compile_options(threads, precision)
        core = openvino.Core()
        if model_path.suffix == ".xml" and _SCAN_TAG.search(model_path.read_bytes()):
            from rs4d_edge.runtimes.openvino_scan import add_scan_extension

            add_scan_extension(core, threads)
        if PRECISION_HINTS[precision] == "bf16" and not has_bf16(core):
            raise RuntimeUnavailable(
                f"this processor has no bf16 instructions, so the {precision} export would be emulated; use the "
                f"{'int8' if 'int8' in precision else 'fp32'} export"
            )
        try:
            model = core.read_model(model_path)
            # The file's names: compiling adds those of inner values that turn out to be the same.
            names = [[port.get_any_name() for port in ports] for ports in (model.inputs, model.outputs)]
            compiled = core.compile_model(model, "CPU", options)
            del model  # before its core, whose extension its nodes need
            self._request: openvino.InferRequest | None = compiled.create_infer_request()
        except RuntimeError as error:
            raise RuntimeFailure(f"OpenVINO cannot load {model_path}: {error}") from error
        self._core = core  # an extension must outlive the model that uses it
        self._inputs, self._outputs = (
            tuple(_spec(name, port) for name, port in zip(own, ports, strict=True))
            for own, ports in zip(names, (compiled.inputs, compiled.outputs), strict=True)
        )
        self._slots = {spec.name: self._request.get_input_tensor(index).data for index, spec in enumerate(self._inputs)}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be fed."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` answers with."""
        return self._outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Runtime.run`."""
        if self._request is None:
            raise ClosedError("this OpenVINO model was closed; open another")
        check_feeds(self._inputs, feeds)
        for name, slot in self._slots.items():
            np.copyto(slot, feeds[name])
        try:
            self._request.infer()
        except RuntimeError as error:
            raise RuntimeFailure(f"OpenVINO failed while running the model: {error}") from error
        request = self._request  # its output buffers are written anew by each run, so the caller gets copies
        return {spec.name: request.get_output_tensor(index).data.copy() for index, spec in enumerate(self._outputs)}

    def close(self) -> None:
        """Let go of the model."""
        self._slots.clear()
        self._request = None


def has_bf16(core: openvino.Core) -> bool:
    """Whether this processor computes in bf16 itself."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compile_options(threads: int | None, precision: str) -> dict[str, str | int]:
    """The engine's properties for one frame at a time in `precision`, on `threads` threads."""
    if precision not in PRECISION_HINTS:
        raise InputError(f"OpenVINO runs these models in {', '.join(PRECISION_HINTS)}, not in {precision!r}")
    options: dict[str, str | int] = {
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    return options


def _spec(name: str, port: openvino.ConstOutput) -> TensorSpec:
    if port.partial_shape.is_dynamic:
        raise RuntimeFailure(
            f"{name!r} has the shape {port.partial_shape}, but only fixed shapes are run; export again"
        )
    return TensorSpec(name, np.dtype(port.element_type.to_dtype()), fixed_shape(name, port.shape))
