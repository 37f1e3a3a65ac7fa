"""Single operators timed alone: what an encoder cannot be faster than, and the unit of whole networks.

A floor is the sum of an encoder's large matrix products (in_proj and out_proj of every layer, the patch embedding) in
OpenVINO and of its scans by the native kernel, each timed alone: no norms, no small projections, no activation, and
weights that may stay in the cache from one run to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import openvino
import torch
from openvino import opset13 as ops

from benchmarks.measuring import Timed
from rs4d_edge.native.library import ScanShape, load_native_scan
from rs4d_edge.reference.config import EncoderConfig
from rs4d_edge.runtimes.openvino_runtime import compile_options

Call = Callable[[], object]
Array = npt.NDArray[np.float32]
GEMM = (4096, 256, 1024)  # rows, inputs, outputs: in_proj of the base encoder at 1024x1024


def gemm_units(precision: str, threads: int, runs: int) -> dict[str, Timed]:
    """The matrix product that whole networks are measured in, in OpenVINO and in torch."""
    tokens, weight = (torch.randn(rows, GEMM[1]).to(_torch_type(precision)) for rows in (GEMM[0], GEMM[2]))
    return {
        f"gemm openvino {precision}": Timed(openvino_gemm(*GEMM, precision, threads), runs),
        f"gemm torch {precision}": Timed(lambda: torch.nn.functional.linear(tokens, weight), runs),
    }


def floor_parts(config: EncoderConfig, precision: str, threads: int, runs: int) -> dict[str, tuple[Timed, int]]:
    """The parts of an encoder's floor, each with how often it occurs in one frame."""
    rows, columns = config.grid_hw
    tokens, channels, inner = rows * columns, config.channels, config.inner_channels
    return {
        "in_proj": (Timed(openvino_gemm(tokens, channels, 2 * inner, precision, threads), runs), config.depth),
        "out_proj": (Timed(openvino_gemm(tokens, inner, channels, precision, threads), runs), config.depth),
        "patch embedding": (Timed(openvino_patches(config, precision, threads), runs), 1),
        "scan": (Timed(native_scan(tokens, inner, config.state_size, threads), runs), config.depth),
    }


def openvino_gemm(rows: int, inputs: int, outputs: int, precision: str, threads: int) -> Call:
    """One product of (rows, inputs) by a constant (outputs, inputs), as an exported linear layer is."""
    kind = _openvino_type(precision)
    source = ops.parameter([rows, inputs], kind)
    weight = ops.constant(_normal(outputs, inputs), dtype=kind)
    return _request(ops.matmul(source, weight, False, True), source, precision, threads)


def openvino_patches(config: EncoderConfig, precision: str, threads: int) -> Call:
    """The patch embedding: a convolution of stride 16 over the image."""
    kind, patch = _openvino_type(precision), config.patch_size
    source = ops.parameter([1, 3, *config.image_size_hw], kind)
    weight = ops.constant(_normal(config.channels, 3, patch, patch), dtype=kind)
    result = ops.convolution(source, weight, [patch, patch], [0, 0], [0, 0], [1, 1])
    return _request(result, source, precision, threads)


def native_scan(tokens: int, channels: int, states: int, threads: int) -> Call:
    """Both directions of one layer, each with inputs of its own, by the native kernel; fp32 as in every precision."""
    native, shape = load_native_scan(), ScanShape(1, tokens, channels, states)
    a, d = -np.tile(np.arange(1, states + 1, dtype=np.float32), (channels, 1)), _normal(channels)
    arrays = [_scan_inputs(tokens, channels, states, a, d) for _ in range(2)]
    results = [np.empty((tokens, channels), np.float32) for _ in range(2)]

    def both() -> None:
        ahead, back = (tuple(array.ctypes.data for array in each) for each in arrays)
        ahead_y, back_y = (result.ctypes.data for result in results)
        native.bidirectional((ahead, back), shape, (ahead_y, back_y), threads=threads)

    return both


def _scan_inputs(tokens: int, channels: int, states: int, a: Array, d: Array) -> list[Array]:
    """u, delta, a, b, c, d; step sizes as at the start of training."""
    delta = np.random.default_rng(0).uniform(1e-3, 0.1, (tokens, channels)).astype(np.float32)
    return [_normal(tokens, channels), delta, a, _normal(tokens, states), _normal(tokens, states), d]


def _request(result: openvino.Node, source: openvino.Node, precision: str, threads: int) -> Call:
    """Compile one operator; input and output in its own precision, so that nothing is converted."""
    model = openvino.Model([result], [source])
    compiled = openvino.Core().compile_model(model, "CPU", compile_options(threads, precision))
    request = compiled.create_infer_request()
    shape = list(source.get_output_shape(0))
    request.set_input_tensor(_tensor(_normal(*shape), precision))
    return lambda: request.infer()


def _tensor(values: npt.NDArray[np.float32], precision: str) -> openvino.Tensor:
    if precision == "fp32":
        return openvino.Tensor(values)
    halves = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
    return openvino.Tensor(halves, list(values.shape), openvino.Type.bf16)


def _normal(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape, dtype=np.float32)


def _openvino_type(precision: str) -> openvino.Type:
    return openvino.Type.bf16 if precision == "bf16" else openvino.Type.f32


def _torch_type(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32


def floor_ms(parts: dict[str, tuple[Timed, int]], medians_ms: Sequence[float]) -> float:
    """The sum over the parts of how often they occur times their medians, in the parts' order."""
    return sum(often * median for (_, often), median in zip(parts.values(), medians_ms, strict=True))
