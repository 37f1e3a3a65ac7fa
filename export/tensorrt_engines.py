"""Engines of TensorRT-RTX, built ahead of time on a machine that needs no GPU.

An engine is written for one compute capability by one version of the library, which alone can load it. It is built
from the ONNX file of the bundle, which stays beside it: that file was compared with the reference, the engine was not.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx

from rs4d_edge.errors import ExportError, RuntimeUnavailable
from rs4d_edge.export.recipes import Recipe, ScanForm, Target
from rs4d_edge.export.tensorrt_builder import LIBRARY, BuildAnswer, BuildJob, answer_path
from rs4d_edge.export.tensorrt_graph import plugin_graph
from rs4d_edge.runtimes.tensorrt_record import EngineRecord

_SHARED_LIBRARY = "libtensorrt_rtx.so"


def check_tensorrt() -> None:
    """Raise RuntimeUnavailable, with what to install, unless engines can be built here."""
    if importlib.util.find_spec(LIBRARY) is None:
        raise RuntimeUnavailable(
            f"engines are built by the package {LIBRARY}, which is not installed; "
            'run: pip install "rs4d-edge[export,tensorrt-rtx]"'
        )


def engine_options(recipe: Recipe) -> dict[str, str]:
    """What the manifest says of engines: for which GPUs, and that parity was measured on their graph."""
    if recipe.target is not Target.RTX:
        return {}
    plugin = ", the scan by its nodes' bodies and not by the plugin" if recipe.scan is ScanForm.PLUGIN else ""
    return {
        "engines": ", ".join(recipe.compute_capabilities),
        "compared": f"{recipe.target.model_file}, which the engines are built from, in {recipe.target.runtime}{plugin}",
    }


def build_engine(model_path: Path, scan: ScanForm, compute_capability: str, folder: Path) -> EngineRecord:
    """Build `model-sm86.engine` or the like into `folder`, with its record in a .json file beside it.

    `model_path` is a file of `tensorrt_graph`. Takes from seconds to minutes. Raises ExportError, which names the node
    where TensorRT does; RuntimeUnavailable without the library. Nothing is left in `folder` then.
    """
    check_tensorrt()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".engine-") as temporary:
        work = Path(temporary)
        parsed = model_path.absolute()
        if scan is ScanForm.PLUGIN:
            parsed = work / model_path.name
            onnx.save(plugin_graph(onnx.load(model_path)), parsed)
        record = _run(
            BuildJob(
                model=parsed,
                name=model_path.name,
                engine=work / f"{model_path.stem}-sm{compute_capability.replace('.', '')}.engine",
                compute_capability=compute_capability,
                plugin=scan is ScanForm.PLUGIN,
            ),
            work,
        )
        path = (folder / record.engine).with_suffix(".json")
        path.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (work / record.engine).replace(folder / record.engine)
    return record


def _run(job: BuildJob, work: Path) -> EngineRecord:
    """Do `job` in a process of its own."""
    path = work / "job.json"
    path.write_text(job.model_dump_json())
    command = [sys.executable, "-m", "rs4d_edge.export.tensorrt_builder", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(work))
    if not answer_path(path).is_file():
        last = done.stderr.strip()[-1000:] or "it said nothing"
        raise ExportError(f"the process in which {LIBRARY} builds engines ended with status {done.returncode}: {last}")
    answer = BuildAnswer.model_validate_json(answer_path(path).read_text())
    if answer.record is None:
        raise ExportError(f"{LIBRARY} {answer.error}")
    return answer.record


def _environment(work: Path) -> dict[str, str]:
    """The parser opens the library by a name that its wheel does not bring, and ends the process if it fails to."""
    spec = importlib.util.find_spec(f"{LIBRARY}_libs")
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    for library in (path for folder in folders for path in sorted(folder.glob(f"{_SHARED_LIBRARY}.*"))[:1]):
        (work / _SHARED_LIBRARY).symlink_to(library)
    search = [str(work), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(search)}
