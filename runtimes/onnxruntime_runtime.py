"""ONNX Runtime on the CPU, in fp32, or int8 where the file says so; it converts fp16 to fp32.

A model's scans run through our kernels, whose library the first such model builds (see `onnxruntime_scan`). Without
it they run through the bodies of standard operators that the file carries: the same numbers, several times slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from rs4d_edge.errors import ClosedError, InputError, RuntimeFailure
from rs4d_edge.runtimes.contract import Array, TensorSpec, check_feeds, check_file, fixed_shape
from rs4d_edge.runtimes.onnxruntime_scan import add_scan_kernel, has_own_nodes

# For sessions with our kernels, measured with two threads on two processors. Idle threads that sleep instead of
# spinning cost 2 % of a frame on a quiet machine, save 30 % beside six busy processes, and leave the processor to
# whoever handles the frame next. Work cut into smaller blocks (16 to a thread, not 1) costs nothing and saves another
# 10 % there. Bodies, thousands of small nodes, would take half as long again. Left alone, because they brought nothing:
# memory patterns, and binding inputs and outputs. Left alone although it saved 1 to 5 %: flushing denormals, which
# stays switched on in the caller's thread.
_SETTINGS = {"session.intra_op.allow_spinning": "0", "session.dynamic_block_base": "16"}

PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")  # what is int8 or fp16 stands in the file
# It rounds biases of int8 layers to the product of two scales, computed in the scales' type: in fp16 that is next to
# nothing, and the results are wrong without a word (seen in 1.32).
_WRONG_IN_HALF = ("WeightBiasQuantization",)
_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(bool)": np.dtype(np.bool_),
}


def open_model(model_path: Path, *, threads: int | None, precision: str) -> OnnxRuntime:
    """Load an ONNX file. `precision` must be one of `PRECISIONS`: the CPU provider has no bf16 convolutions."""
    check_file(model_path)
    check_precision(precision)
    return OnnxRuntime(model_path, threads=threads, precision=precision)


def check_precision(precision: str) -> None:
    """Raise InputError for what ONNX Runtime's CPU provider does not compute in."""
    if precision not in PRECISIONS:
        raise InputError(
            f"onnxruntime runs these models in {', '.join(PRECISIONS)}, not in {precision!r}; "
            "export with --precision fp32"
        )


class OnnxRuntime:
    """An ONNX file in one session of its own. Follows `rs4d_edge.runtimes.contract.Runtime`.

    `native_scan` False leaves our kernels out, so that the scans run as on a stock ONNX Runtime. With `profile_prefix`
    the time of every node is written to a file whose path begins so (see `InferenceSession.end_profiling`). `precision`
    is that of the export.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        threads: int | None = None,
        native_scan: bool = True,
        profile_prefix: Path | None = None,
        precision: str = "fp32",
    ) -> None:
        options = onnxruntime.SessionOptions()
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_prefix)
        options.intra_op_num_threads = threads or 0  # 0: as many as the machine has physical cores
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; warnings name optimisations that did not apply
        if native_scan and has_own_nodes(model_path) and add_scan_kernel(options):
            for name, value in _SETTINGS.items():
                options.add_session_config_entry(name, value)
        try:
            session = onnxruntime.InferenceSession(
                model_path,
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_WRONG_IN_HALF if precision == "int8-fp16" else (),
            )
        except Exception as error:  # its errors have no public base class
            raise RuntimeFailure(f"onnxruntime cannot load {model_path}: {error}") from error
        self._session: onnxruntime.InferenceSession | None = session
        self._inputs = tuple(_spec(value) for value in session.get_inputs())
        self._outputs = tuple(_spec(value) for value in session.get_outputs())

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
        if self._session is None:
            raise ClosedError("this onnxruntime session was closed; open another")
        check_feeds(self._inputs, feeds)
        names = [spec.name for spec in self._outputs]
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:
            raise RuntimeFailure(f"onnxruntime failed while running the model: {error}") from error
        return dict(zip(names, values, strict=True))

    def close(self) -> None:
        """Let go of the model."""
        self._session = None


def _spec(value: onnxruntime.NodeArg) -> TensorSpec:
    if value.type not in _DTYPES:
        raise RuntimeFailure(f"{value.name!r} has the type {value.type}, which no model of ours has")
    return TensorSpec(value.name, _DTYPES[value.type], fixed_shape(value.name, value.shape))
