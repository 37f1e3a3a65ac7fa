"""What a TensorRT plugin of ours is told by: an operator's tensors, and how its CUDA kernels are launched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from rs4d_edge.native.cuda_driver import CudaKernels
from rs4d_edge.native.cuda_launch import Element

Dims = Sequence[Sequence[int]]  # the shapes of all inputs


class Buffers(NamedTuple):
    """Device addresses, all dense, and the first input's type, which is that of every tensor without one of its own."""

    element: Element
    inputs: Sequence[int]
    output: int
    workspace: int = 0


class Launch(Protocol):
    """Puts an operator's kernels onto `stream`, a handle as a number, and returns at once."""

    def __call__(self, kernels: CudaKernels, dims: Dims, buffers: Buffers, stream: int) -> None:
        """`dims` are those of all inputs; the output has that which `Operator.output_shape` gives."""


class Operator(NamedTuple):
    """One operator, with one output.

    Attributes:
        fp32_inputs: places of the inputs that are fp32 whatever the others are.
        output_shape: from the inputs' shapes, whose sizes may be symbols, and a function that doubles a size.
        workspace_bytes: what any GPU may need beside the tensors: engines are built where the GPU's size is not known.
        int32_inputs: places of the inputs that are int32.
        int32_output: whether the output is int32; TensorRT hands plugins no bool.
    """

    name: str
    inputs: tuple[str, ...]
    fp32_inputs: tuple[int, ...]
    output_shape: Callable[[Sequence[Sequence[Any]], Callable[[Any], Any]], Sequence[Any]]
    workspace_bytes: Callable[[Dims], int]
    launch: Launch
    int32_inputs: tuple[int, ...] = ()
    int32_output: bool = False
