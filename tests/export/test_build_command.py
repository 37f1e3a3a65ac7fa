"""`rs4d-export build` as its user runs it, in processes of its own, over a `tensorrt` that needs no GPU."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rs4d_edge.bundle import open_bundle
from rs4d_edge.export import entry
from tests.runtimes.builder_stand_in import install, write_engine_bundle

COMMAND = [sys.executable, "-m", "rs4d_edge.export.entry", "build"]
_PATIENCE_S = 60


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle for Jetson, and the stand-in where the command finds it."""
    (tmp_path / "library").mkdir()
    install(tmp_path / "library", monkeypatch)
    return write_engine_bundle(tmp_path / "bundle")


def run(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, str(bundle), "--compute-capability", "8.7", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=bundle.parent)


def begun(bundle: Path) -> subprocess.Popen[str]:
    """A build that goes on, once it has told so."""
    command = [*COMMAND, str(bundle), "--compute-capability", "8.7"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None and "Building engine, 0 of 4" in process.stdout.readline()
    assert len(list((bundle / "engines").glob(".build-*"))) == 1
    return process


def _builders(bundle: Path) -> list[int]:
    """Processes that build for the bundle."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if "rs4d_edge.runtimes.tensorrt_builder" in words and any(str(bundle) in word for word in words):
            found.append(int(path.parent.name))
    return found


def test_builds_says_what_and_needs_nothing_of_the_workstation(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = bundle.parent / "library" / "sitecustomize.py"
    blocker.write_text(
        "import sys\nfor name in ('torch', 'onnx', 'onnxruntime', 'onnxscript', 'openvino', 'nncf', 'scipy'):\n"
        "    sys.modules[name] = None\n"
    )
    done = run(bundle, "--max-memory", "1500M")
    assert done.returncode == 0, done.stderr
    assert "Building engine, 0 of 4 (0%, 0 s)" in done.stdout
    (engine,) = (bundle / "engines").glob("any-sm87-*/model.engine")
    assert str(1500 << 20) in engine.read_text()
    text = " ".join(done.stdout.split())
    assert "tensorrt 10.3.0, compute capability 8.7" in text and f"check it: rs4d-verify {bundle}" in text
    again = run(bundle, "--if-needed")
    assert again.returncode == 0 and "was there, and is for this machine" in again.stdout


def test_wrong_words_and_machines_without_a_gpu(bundle: Path) -> None:
    done = run(bundle, "--max-memory", "lots")
    assert done.returncode == 1
    assert "error: --max-memory 'lots' must be a size of at least 1M, as in 1500M or 2G" in done.stderr
    (bundle / "model.onnx").write_bytes(b"?")
    done = run(bundle)
    assert (done.returncode, "model.onnx is cut short" in done.stderr) == (1, True)
    assert not (bundle / "engines").exists()


def test_a_build_that_is_ended_by_the_system_cleans_up(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RS4D_TEST_BUILDER", "slow")
    process = begun(bundle)
    process.send_signal(signal.SIGTERM)
    assert process.wait(_PATIENCE_S) == 128 + signal.SIGTERM
    assert _builders(bundle) == [] and not (bundle / "engines").exists()
    open_bundle(bundle)


@pytest.mark.skipif(sys.platform != "linux", reason="the builder asks Linux to be ended with its parent")
def test_a_build_whose_process_is_killed_ends_and_the_next_one_cleans_up(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RS4D_TEST_BUILDER", "slow")
    process = begun(bundle)
    process.kill()
    process.wait(_PATIENCE_S)
    until = time.monotonic() + _PATIENCE_S
    while _builders(bundle) and time.monotonic() < until:
        time.sleep(0.05)
    assert _builders(bundle) == []
    monkeypatch.setenv("RS4D_TEST_BUILDER", "works")
    done = run(bundle)
    assert done.returncode == 0, done.stderr
    assert not list((bundle / "engines").glob(".build-*"))


def test_the_other_command_is_the_export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["rs4d-export", "absent", "--target", "jetson-orin-nan", "--out", "x"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        entry.main()
    assert "there is no target 'jetson-orin-nan'; did you mean 'jetson-orin-nano'?" in capsys.readouterr().err
