"""Memory for an engine's tensors: each once in page-locked memory and once on the GPU, allocated when it is opened."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from rs4d_edge.runtimes.contract import Array, TensorSpec
from rs4d_edge.runtimes.tensorrt_cuda import Cuda


class TensorMemory(NamedTuple):
    """One tensor. `host` is a view of the page-locked memory, which must not outlive it; addresses of both memories."""

    spec: TensorSpec
    host: Array
    host_address: int
    device_address: int


def allocate(cuda: Cuda, specs: Iterable[TensorSpec], opened: ExitStack) -> tuple[TensorMemory, ...]:
    """Memory for each of `specs`, which `opened` frees. It holds ones, so that a first run reads nothing undefined.

    Raises RuntimeUnavailable if there is not enough.
    """
    tensors = []
    for spec in specs:
        size = int(np.prod(spec.shape)) * spec.dtype.itemsize
        host_address, device_address = cuda.pinned_memory(size, opened), cuda.device_memory(size, opened)
        content = (ctypes.c_ubyte * size).from_address(host_address)
        host = np.ctypeslib.as_array(content).view(spec.dtype).reshape(spec.shape)
        host.fill(1)
        tensors.append(TensorMemory(spec, host, host_address, device_address))
    return tuple(tensors)
