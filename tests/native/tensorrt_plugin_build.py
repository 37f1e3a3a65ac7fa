"""Builds the C++ plugins for the CPU, with tensorrt_harness.cpp around them. Skips where there is no g++.

The headers are TensorRT's own where TENSORRT_INCLUDE_DIR names their folder and the CUDA toolkit is installed, and else
the stand-ins in tensorrt_headers.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rs4d_edge.native.build import find_compiler
from rs4d_edge.native.cuda_build import SOURCE_DIR, TOOLKITS, find_nvcc
from tests.native.cuda_emulation import Emulation

INCLUDE_VARIABLE = "TENSORRT_INCLUDE_DIR"
STAND_INS = Path(__file__).with_name("tensorrt_headers")
DATA_TYPES = {torch.float32: 0, torch.float16: 1, torch.int8: 2, torch.int32: 3, torch.bfloat16: 7}  # TensorRT's
_FLAGS = ("-std=c++17", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-I", str(SOURCE_DIR))
_ROW = 9  # a shape for the harness: rank and eight sizes


def tensorrt_headers() -> tuple[Path, Path] | None:
    """Folders of TensorRT's own headers and of CUDA's, where they are named and there is a toolkit."""
    named = os.environ.get(INCLUDE_VARIABLE)
    toolkits = [Path(find_nvcc()).resolve().parents[1], *sorted(TOOLKITS.glob("cuda*"))] if named else []
    folders = [toolkit / "include" for toolkit in toolkits if (toolkit / "include" / "cuda_runtime_api.h").is_file()]
    return (Path(named), folders[0]) if named and folders else None


@functools.cache
def _build() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    emulation = Emulation().library  # skips without a compiler
    compiler, here = find_compiler(), Path(__file__).parent
    folder = tempfile.TemporaryDirectory(prefix="rs4d-plugin-")
    stand_ins = ("-I", str(STAND_INS))
    real = tensorrt_headers()
    given = ("-isystem", str(real[0]), "-isystem", str(real[1])) if real else stand_ins
    objects = []
    for source, headers in (
        (here / "tensorrt_emulation.cpp", stand_ins),
        (here / "tensorrt_harness.cpp", given),
        (SOURCE_DIR / "tensorrt_plugin.cpp", given),
    ):
        objects.append(str(Path(folder.name) / f"{source.stem}.o"))
        _run([compiler, *_FLAGS, *headers, "-I", str(here), "-c", str(source), "-o", objects[-1]])
    library = Path(folder.name) / "librs4d_tensorrt.so"
    _run([compiler, "-shared", "-Wl,-z,defs", *objects, str(emulation), "-ldl", "-o", str(library)])
    return library, folder


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


class Harness:
    """An engine's part, for one operator after another. Operators are called by name."""

    def __init__(self) -> None:
        self.library = _build()[0]
        self.symbols = ctypes.CDLL(str(self.library))
        for name in ("name", "identity", "logged"):
            getattr(self.symbols, f"harness_{name}").restype = ctypes.c_char_p
        self.symbols.harness_workspace.restype = ctypes.c_int64

    def plan(self, shape: Sequence[int], directions: int, multiprocessors: int) -> tuple[int, ...] | None:
        """segment_tokens, segments, padded_states and carry_floats, or None for what does not fit."""
        found = (ctypes.c_int64 * 4)()
        given = (ctypes.c_int64(directions), ctypes.c_int64(multiprocessors))
        failed = self.symbols.harness_plan((ctypes.c_int64 * 4)(*shape), *given, found)
        return None if failed else tuple(found)

    def infer(
        self, operator: str, shapes: Sequence[Sequence[int]], types: Sequence[torch.dtype]
    ) -> tuple[list[int], int] | None:
        """The output's shape, -1 for sizes that are not known, and type; None where the inputs are refused."""
        found = (ctypes.c_int64 * (_ROW + 1))()
        failed = self.symbols.harness_infer(operator.encode(), len(shapes), _rows(shapes), _types(types), found)
        return None if failed else (list(found[1 : 1 + found[0]]), found[_ROW])

    def workspace(self, operator: str, shapes: Sequence[Sequence[int]], dtype: torch.dtype) -> int:
        """In bytes, for the shapes of all inputs."""
        types = _types([dtype] * (len(shapes) + 1))
        return int(self.symbols.harness_workspace(operator.encode(), len(shapes), _rows([*shapes, ()]), types))

    def takes(self, operator: str, position: int, types: Sequence[torch.dtype], layout: int = 0) -> bool:
        """Whether the tensor at `position` may be of its type, beside the types of all tensors."""
        return bool(self.symbols.harness_takes(operator.encode(), position, len(types) - 1, _types(types), layout))

    def enqueue(self, operator: str, inputs: Sequence[Tensor], output: Tensor, workspace: Tensor | None = None) -> int:
        """Compute into `output`; the status, 0 for success."""
        tensors = [*inputs, output]
        data = (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))
        rows, types = _rows([tuple(x.shape) for x in tensors]), _types([x.dtype for x in tensors])
        carry = None if workspace is None else ctypes.c_void_p(workspace.data_ptr())
        return int(self.symbols.harness_enqueue(operator.encode(), len(inputs), rows, types, data, carry))

    def logged(self) -> str:
        """What the last operator reported."""
        return str(self.symbols.harness_logged().decode())


def _rows(shapes: Sequence[Sequence[int]]) -> ctypes.Array[ctypes.c_int64]:
    rows = [[len(shape), *shape, *[0] * (_ROW - 1 - len(shape))] for shape in shapes]
    return (ctypes.c_int64 * (_ROW * len(rows)))(*(size for row in rows for size in row))


def _types(types: Sequence[torch.dtype]) -> ctypes.Array[ctypes.c_int32]:
    return (ctypes.c_int32 * len(types))(*(DATA_TYPES[each] for each in types))
