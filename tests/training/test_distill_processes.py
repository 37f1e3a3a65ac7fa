"""Two processes learn what one learns: same pictures, same corruption, same batch norms, averaged gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from rs4d_edge.training.distillation import ENCODER_NAME
from rs4d_edge.training.run_state import read_content
from tests.training.tiny_distillation import EDGE_STUDENT, SHARED_RUN, begin_corrupted, distiller, write_pictures

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 240


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "pictures", 8)
    one, two = tmp_path / "one", tmp_path / "two"
    command = [sys.executable, "-m", "tests.training.tiny_distillation", str(pictures), str(two), "2"]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # waiting threads would take the other's core
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    single = begin_corrupted(distiller(pictures, one, cache=one / "cache", **SHARED_RUN)).run()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors.decode()[-3000:]
    states = [read_content(folder, "distillation-1") for folder in (one, two)]
    assert single.steps == states[0]["step"] == states[1]["step"] == 6
    shards = [{path.name for path in folder.glob("cache/*/maps-*.safetensors")} for folder in (one, two)]
    assert not shards[0] & shards[1]  # the processes had cut the teacher's work in two: other shards, same maps
    for kind, levels in states[0]["corruption"].items():
        for name, value in levels.items():
            assert abs(value - states[1]["corruption"][kind][name]) < 1e-5, (kind, name)
    assert 0 < states[0]["corruption"]["mask"]["level"] < 0.4
    encoders = [load_file(folder / ENCODER_NAME) for folder in (one, two)]
    for name, value in encoders[0].items():
        assert torch.allclose(value, encoders[1][name], rtol=1e-4, atol=2e-5), name
    assert {name.split(".")[0] for name in encoders[0]} > {"stem"}
    assert EDGE_STUDENT.stem_channels is not None  # else no batch norm would be compared
