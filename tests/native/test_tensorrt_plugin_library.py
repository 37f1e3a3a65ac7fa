"""The C++ plugins as a library: TensorRT-RTX loads it, nvcc compiles it, and CMake says what it lacks.

Set TENSORRT_INCLUDE_DIR to compile against TensorRT's own headers; without it a stand-in takes their place, and the
whole build by CMake is left out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
import torch
from onnx import NodeProto, TensorProto

from rs4d_edge.errors import RuntimeUnavailable
from rs4d_edge.native.cuda_build import COMPILE_FLAGS, SOURCE_DIR, find_nvcc
from rs4d_edge.runtimes.tensorrt_plugins import PLUGIN_NAMES
from tests.export.test_tensorrt_operators import nms_model, roi_model
from tests.export.test_tensorrt_selection import in_plugin_form, roi_inputs
from tests.native.tensorrt_plugin_build import Harness, tensorrt_headers

SHARED_LIBRARY = "libtensorrt_rtx.so"  # the parser opens it by this name, and the wheel names it otherwise
EXPORTED = {"getCreators", "setLoggerFinder"}


def core_model(kind: int, channels_of_weight: int = 24) -> onnx.ModelProto:
    """One mixer's core for B 1, L 50, E 24, N 4, R 3, K 4."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)

    def weight(name: str, *shape: int, of: Any = np.float32) -> TensorProto:
        return onnx.numpy_helper.from_array(np.full(shape, 0.01, of), name)

    def own(name: str, inputs: Sequence[str], output: str) -> NodeProto:
        identity = {"plugin_namespace": "rs4d", "plugin_version": "1"}
        return onnx.helper.make_node(name, inputs, [output], name=name, domain="rs4d", **identity)

    nodes = [
        own("MixerConvolution", ["uz", "weight", "bias"], "v"),
        onnx.helper.make_node("MatMul", ["v", "x_proj"], ["narrow"]),
        onnx.helper.make_node("MatMul", ["v", "dt_proj"], ["dt"]),
        own("MixerScan", ["v", "dt", "narrow", "dt_bias", "a", "d"], "y"),
        own("MixerGate", ["y", "uz"], "out"),
    ]
    weights = [weight("weight", channels_of_weight, 4), weight("bias", 24), weight("x_proj", 24, 11, of=dtype),
               weight("dt_proj", 24, 24, of=dtype), weight("dt_bias", 24), weight("a", 24, 4),
               weight("d", 24)]  # fmt: skip
    ends = [onnx.helper.make_tensor_value_info(*each) for each in (("uz", kind, [1, 50, 48]), ("out", kind, None))]
    graph = onnx.helper.make_graph(nodes, "core", ends[:1], ends[1:], weights)
    imports = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("rs4d", 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)


def load(library: Path, model: onnx.ModelProto, folder: Path) -> tuple[dict[str, Any], str]:
    """What TensorRT-RTX makes of it, and what it or the plugins said."""
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    if spec is None:
        pytest.skip("tensorrt_rtx is not installed")
    for place in spec.submodule_search_locations or ():
        for found in sorted(Path(place).glob(f"{SHARED_LIBRARY}.*"))[:1]:
            (folder / SHARED_LIBRARY).symlink_to(found)
    onnx.save(model, folder / "core.onnx")
    command = [sys.executable, str(Path(__file__).with_name("tensorrt_plugin_load.py")), str(library)]
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    done = subprocess.run([*command, str(folder / "core.onnx")], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "name"), [(TensorProto.FLOAT, "FLOAT"), (TensorProto.FLOAT16, "HALF"), (TensorProto.BFLOAT16, "BF16")]
)
def test_tensorrt_loads_the_library_and_builds_with_it(tmp_path: Path, kind: int, name: str) -> None:
    answer, _ = load(Harness().library, core_model(kind), tmp_path)
    assert answer["creators"] == [*PLUGIN_NAMES]
    assert (answer["parsed"], answer["plugins"], answer["output"]) == (True, 3, [1, 50, 24])
    assert answer["type"] == name
    assert answer["engine_bytes"] > 0


@pytest.mark.parametrize("plugin", ["NmsKeep", "RoiAlignAdaptive"])
def test_tensorrt_builds_selection_with_it(tmp_path: Path, plugin: str) -> None:
    """The graphs that the export writes, which the parser is given without the bodies."""
    made = {
        "NmsKeep": lambda: nms_model(torch.zeros(2, 50, 4), torch.zeros(2, 50), 0.5, 0.0, 5),
        "RoiAlignAdaptive": lambda: roi_model(**roi_inputs(), size=5, scale=0.125),
    }
    model = in_plugin_form(made[plugin](), plugin)
    del model.functions[:]
    answer, _ = load(Harness().library, model, tmp_path)
    output, kind = {"NmsKeep": ([2, 50], "BOOL"), "RoiAlignAdaptive": ([16, 3, 5, 5], "FLOAT")}[plugin]
    assert (answer["parsed"], answer["plugins"], answer["output"], answer["type"]) == (True, 1, output, kind)
    assert answer["engine_bytes"] > 0


def test_tensorrt_is_told_which_node_does_not_fit(tmp_path: Path) -> None:
    answer, said = load(Harness().library, core_model(TensorProto.FLOAT, channels_of_weight=25), tmp_path)
    assert not answer["parsed"]
    assert "rs4d::MixerConvolution: its inputs do not fit each other" in said


def nvcc() -> str:
    try:
        return find_nvcc()
    except RuntimeUnavailable as error:
        pytest.skip(str(error))


def test_nvcc_compiles_the_launches_for_orin(tmp_path: Path) -> None:
    flags = (*COMPILE_FLAGS, "-arch=sm_87", "-Xcompiler", "-fPIC,-Wall,-Wextra")
    built = tmp_path / "launch.o"
    command = [nvcc(), *flags, "-c", str(SOURCE_DIR / "tensorrt_launch.cu"), "-o", str(built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "warning" not in done.stderr
    assert b"rs4d_scan_bf16_n16" in built.read_bytes()


def configure(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    command = [cmake, "-S", str(SOURCE_DIR), "-B", str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_cmake_names_the_headers_that_are_missing(tmp_path: Path) -> None:
    done = configure(tmp_path / "build", f"-DTENSORRT_INCLUDE_DIR={tmp_path}")
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert f"There is no NvInferRuntime.h in TENSORRT_INCLUDE_DIR, which is '{tmp_path}'" in said
    assert "libnvinfer-headers-dev" in said


@pytest.mark.slow
def test_cmake_builds_the_library_against_the_real_headers(tmp_path: Path) -> None:
    compiler, headers = nvcc(), tensorrt_headers()
    if headers is None:
        pytest.skip("TENSORRT_INCLUDE_DIR does not name the folder of TensorRT's headers")
    folder = tmp_path / "build"
    options = (f"-DCMAKE_CUDA_COMPILER={compiler}", "-DCMAKE_CUDA_ARCHITECTURES=87")
    done = configure(folder, f"-DTENSORRT_INCLUDE_DIR={headers[0]}", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    built = subprocess.run(["cmake", "--build", str(folder)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    library = folder / "librs4d_tensorrt.so"
    symbols = subprocess.run(["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True)
    assert {line.split()[-1] for line in symbols.stdout.splitlines()} == EXPORTED
    answer, _ = load(library, core_model(TensorProto.FLOAT16), tmp_path)
    assert (answer["parsed"], answer["plugins"]) == (True, 3)
    assert answer["engine_bytes"] > 0
