"""Build an engine in a process of its own, with progress, a cap on its memory, and nothing left behind if it fails."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rs4d_edge.errors import RuntimeFailure, RuntimeUnavailable
from rs4d_edge.runtimes.tensorrt_builder import BuildAnswer, BuildJob
from rs4d_edge.runtimes.tensorrt_progress import BuildProgress
from rs4d_edge.runtimes.tensorrt_record import EngineHost, EngineRecord

Tell = Callable[[BuildProgress], None]
_BUILDER = "rs4d_edge.runtimes.tensorrt_builder"
_SHARED_LIBRARY = "libtensorrt_rtx.so"
_KILLED = -9  # by the kernel, where memory has run out
_LAST_WORDS = 1000  # characters of what a process said that ended without an answer


def silent(progress: BuildProgress) -> None:
    """For whoever wants no progress."""


def build_engine(
    model_path: Path,
    folder: Path,
    stem: str,
    host: EngineHost,
    *,
    max_memory_bytes: int | None = None,
    timing_cache: Path | None = None,
    tell: Tell = silent,
) -> EngineRecord:
    """Build `folder`/`stem`.engine for `host` from the ONNX file `model_path`, and its record as `stem`.json beside it.

    Takes from seconds to many minutes; `tell` is given the progress. `max_memory_bytes` and `timing_cache` are those of
    `BuildJob`. Raises RuntimeFailure with TensorRT's words, which name the node where they can; RuntimeUnavailable
    where there is too little memory or the library is missing. `folder` is left as it was then, and if the build is
    interrupted.
    """
    _require(host.library)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as temporary:
        work = Path(temporary)
        job = BuildJob(
            model=model_path.absolute(),
            engine=work / f"{stem}.engine",
            host=host,
            max_memory_bytes=max_memory_bytes,
            timing_cache=timing_cache.absolute() if timing_cache else None,
        )
        record = _run(job, work, tell)
        written = work / f"{stem}.json"
        written.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (work / record.engine).replace(folder / record.engine)
        written.replace(folder / written.name)
    return record


def _require(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        how = (
            'run: pip install "rs4d-edge[tensorrt-rtx]"'
            if library == "tensorrt_rtx"
            else "on a Jetson it comes with JetPack, and a virtual environment sees it if made with "
            "--system-site-packages"
        )
        raise RuntimeUnavailable(f"engines are built by the package {library}, which is not installed; {how}")


def _run(job: BuildJob, work: Path, tell: Tell) -> EngineRecord:
    path, words = work / "job.json", work / "words.txt"
    path.write_text(job.model_dump_json(), encoding="utf-8")
    with words.open("wb") as said, _builder_process(path, work, said) as (process, messages):
        answer = None
        for line in messages:
            message = json.loads(line)
            if "phase" in message:
                tell(BuildProgress.model_validate(message))
            else:
                answer = BuildAnswer.model_validate(message)
        status = process.wait()
    if answer is None:
        raise _ended(job, status, words)
    if answer.record is not None:
        return answer.record
    if answer.out_of_memory:
        raise _out_of_memory(job, answer.error)
    raise RuntimeFailure(f"{job.host.library} {answer.error}")


@contextmanager
def _builder_process(job: Path, work: Path, said: IO[bytes]) -> Iterator[tuple[subprocess.Popen[bytes], IO[str]]]:
    """The process and what comes through its pipe. It is killed if it still runs at the end of the block."""
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", _BUILDER, str(job), str(writing), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            env=_environment(work),
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as messages:
        try:
            yield process, messages
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _environment(work: Path) -> dict[str, str]:
    """TensorRT-RTX's parser opens the library by a name that its wheel does not bring, and aborts if that fails."""
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    for library in (path for folder in folders for path in sorted(folder.glob(f"{_SHARED_LIBRARY}.*"))[:1]):
        (work / _SHARED_LIBRARY).symlink_to(library)
    search = [str(work), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(search)}


def _ended(job: BuildJob, status: int, words: Path) -> RuntimeFailure | RuntimeUnavailable:
    if status == _KILLED:
        return _out_of_memory(job, "was killed while it built the engine, as the system does when memory has run out")
    last = words.read_text(encoding="utf-8", errors="replace").strip()[-_LAST_WORDS:] or "it said nothing"
    return RuntimeFailure(f"the process in which {job.host.library} builds engines ended with status {status}: {last}")


def _out_of_memory(job: BuildJob, what: str) -> RuntimeUnavailable:
    cap = f"with at most {job.max_memory_bytes / 1e6:.0f} MB" if job.max_memory_bytes else "without a cap"
    return RuntimeUnavailable(
        f"out of memory: {job.host.library} {what} ({cap} for trying kernels). End what else runs, add swap, or give "
        "another --max-memory: a smaller one leaves more to the rest, a larger one lets it try kernels that need it"
    )
