"""The TensorRT plugins as sources in a bundle, for C++ programs, which run its engines without Python.

They are compiled on the device, against its TensorRT and for its GPU.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from rs4d_edge.errors import ExportError
from rs4d_edge.native.cuda_build import HEADERS, KERNEL_SOURCE, SOURCE_DIR
from rs4d_edge.runtimes.tensorrt_plugins import PLUGIN_NAMES, PLUGIN_NAMESPACE

FOLDER = "plugin"
LIBRARY_NAME = "librs4d_tensorrt.so"
PLUGIN_SOURCES = (
    "CMakeLists.txt",
    *HEADERS,
    KERNEL_SOURCE,
    "tensorrt_launch.cu",
    "tensorrt_launch.hpp",
    "tensorrt_operator.hpp",
    "tensorrt_operators.hpp",
    "tensorrt_plan.hpp",
    "tensorrt_plugin.cpp",
    "tensorrt_report.hpp",
)
README_NAME = "README.txt"
_README = f"""\
TensorRT plugins of rs4d-edge (Apache-2.0)

For C++ programs: an engine of this bundle that has nodes of {PLUGIN_NAMESPACE}'s own needs {LIBRARY_NAME}, which is
built from these sources. Python programs need nothing of it: rs4d_edge brings the same plugins.

  {", ".join(f"{PLUGIN_NAMESPACE}::{name}" for name in PLUGIN_NAMES)}

Build it on the device. Needed are a C++17 compiler, CMake 3.18, the CUDA toolkit, and the headers of TensorRT 10 or
later or of TensorRT-RTX (on JetPack: apt-get install libnvinfer-headers-dev).

  cmake -S . -B build
  cmake --build build

  -DTENSORRT_INCLUDE_DIR=/folder/of/NvInferRuntime.h    where the headers do not lie in /usr/include
  -DCMAKE_CUDA_ARCHITECTURES=87                         to build for another GPU than the one at hand (87: Jetson Orin)

Load it before the engine is read, once in a process, and keep it as long as the engine:

  nvinfer1::IRuntime* runtime = nvinfer1::createInferRuntime(logger);
  if (!runtime->getPluginRegistry().loadLibrary("build/{LIBRARY_NAME}")) {{ /* the log says why */ }}
  nvinfer1::ICudaEngine* engine = runtime->deserializeCudaEngine(data, size);

data and size are the contents of the engine's file. The .json file beside it names its inputs and outputs and the
version of TensorRT that reads it.
"""


def write_plugin_sources(folder: Path) -> tuple[Path, ...]:
    """Write `folder`/plugin with the sources and a README.txt, and return the paths of its files.

    Raises:
        ExportError: there is one already, or the installed package lacks a source. Nothing is left behind then.
    """
    target = folder / FOLDER
    if target.exists():
        raise ExportError(f"the plugins' sources would overwrite {target}: remove it, or export into another folder")
    absent = [name for name in PLUGIN_SOURCES if not (SOURCE_DIR / name).is_file()]
    if absent:
        raise ExportError(
            f"the plugins' sources are not complete: {SOURCE_DIR} lacks {', '.join(absent)}; install rs4d-edge again"
        )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".plugin-") as temporary:
        written = Path(temporary) / FOLDER
        written.mkdir()
        for name in PLUGIN_SOURCES:
            shutil.copyfile(SOURCE_DIR / name, written / name)
        (written / README_NAME).write_text(_README, encoding="utf-8")
        written.replace(target)
    return tuple(target / name for name in (*PLUGIN_SOURCES, README_NAME))
