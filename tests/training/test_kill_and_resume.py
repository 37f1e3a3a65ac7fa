from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from rs4d_edge.training.run_state import STATE_NAME, load_run_state
from rs4d_edge.training.trainer import LAST_NAME
from tests.training.tiny_data import write_tiny_coco

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 120


def start(data: Path, out: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.training.tiny_run", str(data), str(out), *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors.decode()


def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """Killed after step 5 with the last save at step 4: step 5 is done again, and nothing shows."""
    write_tiny_coco(tmp_path)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    uninterrupted = start(tmp_path, whole, "2", "0")
    victim = start(tmp_path, cut, "2", "0.3")
    deadline = time.monotonic() + PATIENCE_S
    while not (cut / "step-4").exists():  # named by the steps before it: the fifth step is done
        assert victim.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim.kill()
    victim.communicate(timeout=PATIENCE_S)
    finish(uninterrupted)
    assert load_run_state(cut).step == 4
    assert not (cut / LAST_NAME).exists()
    finish(start(tmp_path, cut, "2", "0", "resume"))
    states = [load_run_state(folder) for folder in (whole, cut)]
    assert [state.step for state in states] == [6, 6]
    for name, value in states[0].model.items():
        assert torch.equal(value, states[1].model[name]), name
    first, second = (load_file(folder / LAST_NAME) for folder in (whole, cut))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert [path.name for path in cut.glob(".*")] == []  # no half-written file is left
    assert (cut / STATE_NAME).is_file()
