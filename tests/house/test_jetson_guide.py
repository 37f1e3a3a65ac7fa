"""What docs/jetson/ holds is sound as far as that can be seen without a Jetson, and the guide quotes real errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from rs4d_edge.devices import PRESETS
from tests.commands.constant_bundles import write_constant_bundle
from tests.house.repository import ROOT, project

GUIDE = ROOT / "docs" / "jetson.md"
FOLDER = ROOT / "docs" / "jetson"
UNIT = FOLDER / "rs4d.service"
DETECT = FOLDER / "detect.py"
INSTRUCTIONS = {"ARG", "FROM", "RUN", "COPY", "USER", "WORKDIR", "ENV", "CMD"}  # those that our Dockerfile may use


def unit_lines(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("spoilt", [False, True], ids=["as it is", "with a wrong line"])
def test_systemd_accepts_the_unit_and_would_not_accept_any(tmp_path: Path, spoilt: bool) -> None:
    """Programs of the device are replaced by one that is here; it would be missed otherwise."""
    text = re.sub(r"/opt/rs4d/venv/bin/[\w-]+", sys.executable, UNIT.read_text())
    assert text.count(sys.executable) == 3
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("Type=exec", "Type=exce") if spoilt else text)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=60)
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert bool(said) is spoilt, done.stderr
    assert spoilt or done.returncode == 0, done.stderr


def test_the_unit_s_programs_are_ours() -> None:
    commands = [line.split() for line in (*unit_lines("ExecStartPre"), *unit_lines("ExecStart"))]
    names = [Path(command[0]).name for command in commands]
    assert names == ["rs4d-export", "rs4d-verify", "python"]
    assert set(names[:2]) <= set(project()["scripts"])
    assert commands[0][1:] == ["build", "bundle", "--if-needed"]
    assert Path(commands[2][1]).name == DETECT.name
    assert "/opt/rs4d/bundle" in unit_lines("ReadWritePaths")


def test_the_unit_leaves_the_gpu_and_the_camera_visible() -> None:
    set_here = {line.split("=")[0] for line in UNIT.read_text().splitlines() if re.match(r"[A-Z]\w+=", line)}
    hiding = {
        "PrivateDevices",
        "DevicePolicy",
        "DeviceAllow",
        "ProtectClock",
        "MemoryDenyWriteExecute",
        "RootDirectory",
    }
    assert set_here & hiding == set()
    assert unit_lines("SupplementaryGroups") == ["video render"]


def test_the_image_is_made_of_what_is_there() -> None:
    text = re.sub(r"^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    assert {instruction for instruction, _ in steps} <= INSTRUCTIONS
    assert [instruction for instruction, _ in steps][:2] == ["ARG", "FROM"]
    image = dict(step for step in steps if step[0] == "ARG")["ARG"].split("=")[1]
    assert re.fullmatch(r"nvcr\.io/nvidia/[\w-]+:r\d+\.\d+\.\d+", image)
    copied = {rest.split()[0] for instruction, rest in steps if instruction == "COPY"}
    assert copied == {"wheels/", DETECT.name}  # the guide fills the folder, the program lies beside the Dockerfile
    assert "torch" not in text
    assert "exec python /opt/rs4d/detect.py" in json.loads(dict(steps)["CMD"])[2]


def run_detect(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DETECT, *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def frames_in(folder: Path, count: int) -> str:
    folder.mkdir()
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:03d}.png"), np.full((48, 64, 3), 20 * number % 256, np.uint8))
    return str(folder / "%03d.png")


def test_the_program_prints_a_line_for_each_frame_and_says_that_the_camera_stopped(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    bundle = write_constant_bundle(tmp_path / "bundle", "fp32")
    done = run_detect(bundle, frames_in(tmp_path / "frames", 3))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3, done.stderr
    for line in lines:
        assert [found["class_name"] for found in line["objects"]] == ["airplane", "ship"]
        assert line["latency_ms"] > 0
    assert done.returncode == 1
    assert "gives no more frames" in done.stderr


def test_the_program_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    for arguments, said in (
        ([tmp_path / "none", frames_in(tmp_path / "frames", 1)], "none"),
        ([tmp_path / "none", "/dev/video99"], "cannot be opened"),
        ([tmp_path], "usage"),
    ):
        done = run_detect(*arguments)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_the_program_ends_with_status_0_when_it_is_told_to(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    bundle = write_constant_bundle(tmp_path / "bundle", "fp32")
    source = frames_in(tmp_path / "frames", 900)  # more lines than a pipe holds: it cannot end before it is told to
    with subprocess.Popen([sys.executable, DETECT, bundle, source], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("{")
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read().splitlines()
        assert process.wait(timeout=60) == 0
    assert len(rest) < 899


def test_every_error_that_the_guide_quotes_is_one_of_ours() -> None:
    rows = re.findall(r"^\| `([^`]+)` .*\|$", GUIDE.read_text().split("## When something is wrong")[1], re.MULTILINE)
    assert len(rows) > 8
    sources = [path for folder in ("runtimes", "rs4d_edge", "export") for path in (ROOT / folder).rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    joined = re.sub(r'"\s*\n\s*f?"', "", text)  # strings that are written in parts
    assert [row for row in rows if row not in joined] == []


def test_all_that_a_jetson_needs_is_collected_for_it() -> None:
    """The lower bounds are those of pyproject.toml; pip and setuptools build rs4d-edge on the device."""
    command = GUIDE.read_text().split("pip download")[1].split("```")[0]
    collected = set(re.findall(r'"([\w-]+>=[\d.]+)(?:,<\d+)?"', command))
    needed = [*project()["dependencies"], *project()["optional-dependencies"]["jetson"]]
    assert collected == {*(each.split(",")[0] for each in needed), "setuptools>=77", "pip>=23.2"}


def test_what_has_not_been_run_stands_in_one_place() -> None:
    assert GUIDE.read_text().count("## Not run on hardware") == 1
    assert "(jetson.md#not-run-on-hardware)" in (ROOT / "docs" / "tensorrt.md").read_text()


def test_the_guide_s_versions_are_those_of_the_presets() -> None:
    table = GUIDE.read_text().split("## Devices and versions")[1].split("\n\n")[1]
    for device in PRESETS.values():
        assert f"`{device.name}`" in table
        for pack in device.jetpacks:
            assert f"| {pack.version} | {pack.tensorrt} | {pack.cuda} | {pack.python} |" in table


def test_nothing_in_the_folder_is_executable_by_accident() -> None:
    assert [path.name for path in FOLDER.iterdir() if path.is_file() and os.access(path, os.X_OK)] == []
