"""Engines of TensorRT-RTX, built ahead of time on a machine that needs no GPU.

An engine is written for one compute capability by one version of the library, which alone can load it. It is built
from the ONNX file of the bundle, which stays beside it: that file was compared with the reference, the engine was not.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from rs4d_edge.errors import ExportError, RuntimeFailure, RuntimeUnavailable
from rs4d_edge.export.recipes import Recipe, ScanForm
from rs4d_edge.runtimes.tensorrt_build import build_engine
from rs4d_edge.runtimes.tensorrt_host import host_of
from rs4d_edge.runtimes.tensorrt_record import EngineRecord

LIBRARY = "tensorrt_rtx"


def check_tensorrt() -> None:
    """Raise RuntimeUnavailable, with what to install, unless engines can be built here."""
    if importlib.util.find_spec(LIBRARY) is None:
        raise RuntimeUnavailable(
            f"engines are built by the package {LIBRARY}, which is not installed; "
            'run: pip install "rs4d-edge[export,tensorrt-rtx]"'
        )


def engine_options(recipe: Recipe) -> dict[str, str]:
    """What the manifest says of engines: for which GPUs, and that parity was measured on their graph."""
    if not recipe.target.for_engines:
        return {}
    plugin = ", our nodes by their bodies and not by plugins" if recipe.engine_scan is ScanForm.PLUGIN else ""
    return {
        "engines": ", ".join(recipe.compute_capabilities) or "none: rs4d-export build makes one on the device",
        "compared": f"{recipe.target.model_file}, the source of engines, in {recipe.target.gate_runtime}{plugin}",
    }


def build_ahead(model_path: Path, compute_capability: str, folder: Path) -> EngineRecord:
    """Build `model-sm86.engine` or the like into `folder`, with its record in a .json file beside it.

    `model_path` is a file of `tensorrt_graph`. Takes from seconds to minutes. Raises ExportError, which names the node
    where TensorRT does; RuntimeUnavailable without the library or memory. Nothing is left in `folder` then.
    """
    check_tensorrt()
    host = host_of(importlib.import_module(LIBRARY), None, compute_capability)
    try:
        return build_engine(model_path, folder, f"{model_path.stem}-sm{compute_capability.replace('.', '')}", host)
    except RuntimeFailure as error:
        raise ExportError(str(error)) from error
