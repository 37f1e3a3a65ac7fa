"""What a build is made of: the graph without its bodies, the progress, and what the machine tells of itself."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx
import onnx.parser
import pytest

from rs4d_edge.errors import BundleError, InputError
from rs4d_edge.runtimes.tensorrt_host import available_memory_bytes, driver_version, host_of, jetpack_release
from rs4d_edge.runtimes.tensorrt_parsed import without_functions
from rs4d_edge.runtimes.tensorrt_progress import BuildProgress, LoggedProgress, PhaseStack
from tests.runtimes.tensorrt_stand_in import Machine

GRAPH = """
<ir_version: 8, opset_import: ["" : 18, "rs4d" : 1], producer_name: "test">
g (float[4] x) => (float[4] y) { y = rs4d.Twice (x) }
<domain: "rs4d", opset_import: ["" : 18]>
Twice (x) => (y) { y = Add (x, x) }
"""


def test_bodies_are_left_out_and_nothing_else() -> None:
    model = onnx.parser.parse_model(GRAPH)
    for _ in range(2):  # fields may stand in any order
        content = model.SerializeToString()
        parsed = without_functions(content)
        expected = onnx.ModelProto.FromString(content)
        del expected.functions[:]
        assert parsed.needs_plugins and onnx.ModelProto.FromString(parsed.content) == expected
        head = onnx.ModelProto(functions=model.functions).SerializeToString()
        model = onnx.ModelProto.FromString(head + expected.SerializeToString())
    plain = expected.SerializeToString()
    assert without_functions(plain) == (plain, False)


@pytest.mark.parametrize("cut", [1, 7, -3])
def test_what_is_no_model(cut: int) -> None:
    content = onnx.parser.parse_model(GRAPH).SerializeToString()
    with pytest.raises(BundleError, match=r"the model file is not ONNX: unreadable at byte \d+; copy or export"):
        without_functions(content[:cut])
    with pytest.raises(BundleError, match="not ONNX"):
        without_functions(b"\xff" * 20)


def test_progress_counts_phases_within_phases() -> None:
    now = [0.0]
    stack = PhaseStack(lambda: now[0])
    assert stack.progress() is None
    stack.start("build", 4)
    stack.step("build", 0)
    stack.start("time", 10)
    stack.step("time", 4)
    now[0] = 6.0
    progress = stack.progress()
    assert progress == BuildProgress(phase="time", step=5, steps=10, done=0.375, elapsed_s=6.0, left_s=10.0)
    assert str(progress) == "time, 5 of 10 (38%, 6 s, about 10 s left)"
    stack.finish("time")
    stack.finish("unheard of")
    stack.step("build", 3)
    assert (stack.progress() or progress).done == 1.0


def test_programs_that_nobody_watches_find_it_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rs4d_edge.build")
    now = [0.0]
    tell = LoggedProgress(10.0, lambda: now[0])
    for second in range(0, 25, 5):
        now[0] = float(second)
        tell(BuildProgress(phase="time", step=second, steps=25, done=second / 25, elapsed_s=second))
    assert [record.args[0].step for record in caplog.records] == [0, 10, 20]  # type: ignore[index, union-attr]


def _file(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_what_a_jetson_tells_of_itself(tmp_path: Path) -> None:
    assert (driver_version(tmp_path), jetpack_release(tmp_path), available_memory_bytes(tmp_path)) == (None, None, None)
    _file(tmp_path, "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic")
    _file(
        tmp_path,
        "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (me)\nGCC version: 11",
    )
    _file(tmp_path, "proc/meminfo", "MemTotal:  7801000 kB\nMemAvailable:   2000 kB\n")
    assert (driver_version(tmp_path), jetpack_release(tmp_path)) == ("540.4.0", "L4T 36.4.3")
    assert available_memory_bytes(tmp_path) == 2000 * 1024
    _file(
        tmp_path, "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar 5"
    )
    assert driver_version(tmp_path) == "550.54.15"
    _file(tmp_path, "sys/module/nvidia/version", "570.1\n")
    assert driver_version(tmp_path) == "570.1"


def test_without_a_gpu_a_capability_must_be_named(machine: Machine) -> None:
    with pytest.raises(InputError, match=r"for a compute capability that is named"):
        host_of(machine.trt, None)
