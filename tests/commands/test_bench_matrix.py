"""`rs4d-bench --matrix` over bundles that exist, as a device without torch has them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rs4d_edge.bundle import open_bundle
from rs4d_edge.commands import bench_matrix
from rs4d_edge.commands.bench import app
from rs4d_edge.commands.matrix_entries import model_bytes
from rs4d_edge.commands.matrix_measuring import WARM_UP_ROUNDS, take_turns
from rs4d_edge.commands.peak_memory import peak_memory
from rs4d_edge.errors import BundleError, DataError, InputError, RuntimeFailure, RuntimeUnavailable
from rs4d_edge.frames import Frame
from rs4d_edge.timing import StageTimings
from tests.commands.constant_bundles import write_constant_bundle, write_data
from tests.stand_ins import golden_frame, square_detections

pytest.importorskip("onnxruntime")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`val.json` with its images, and three bundles: fp32, an int8 that misses the ship, one that no runtime takes."""
    folder = tmp_path_factory.mktemp("matrix")
    write_data(folder)
    write_constant_bundle(folder / "plain", "fp32", padding=4000)
    write_constant_bundle(folder / "small", "int8", found=1)
    write_constant_bundle(folder / "odd", "int4")
    return folder


@pytest.fixture(scope="module")
def record(folder: Path) -> dict[str, Any]:
    """What the command writes of them."""
    options = ("--data", folder / "val.json", "--runs", 4, "--threads", 1)
    written = ("--json", folder / "out" / "matrix.json", "--markdown", folder / "out" / "matrix.md")
    result = run("--matrix", folder / "plain", folder / "small", folder / "odd", *options, *written)
    assert result.exit_code == 0, result.exception
    assert "small (onnx int8): lost mask AP50: ship 1.000" in result.output
    assert "odd (onnx int4): refused: onnxruntime runs these models in" in result.output
    content: dict[str, Any] = json.loads((folder / "out" / "matrix.json").read_text())
    return content


def test_there_is_a_row_for_each_bundle_with_all_figures(folder: Path, record: dict[str, Any]) -> None:
    plain, small, odd = record["rows"]
    assert [row["what"] for row in record["rows"]] == ["plain (onnx fp32)", "small (onnx int8)", "odd (onnx int4)"]
    assert plain["mask"]["AP"] == pytest.approx(1.0)
    assert small["mask"]["AP50"] == pytest.approx(0.5)
    assert small["lost_classes"] == {"ship": pytest.approx(1.0)}
    for row in (plain, small):
        assert row["p50_ms"] > 0 and row["latency_ratio"] == row["p50_ms"] / plain["p50_ms"]
        assert 0 < row["before_bytes"] <= row["peak_bytes"]
    sizes = [(folder / name / "model.onnx").stat().st_size for name in ("plain", "small")]
    assert [plain["model_bytes"], small["model_bytes"]] == sizes
    assert small["size_ratio"] == sizes[1] / sizes[0] < 1
    assert "int4" in odd["refused"] and odd["p50_ms"] is None


def test_the_conditions_are_recorded(folder: Path, record: dict[str, Any]) -> None:
    assert (record["model"], record["threads"], record["runs"]) == ("constant", 1, 4)
    assert (record["images"], record["frames"], record["data"]) == (3, 3, str(folder / "val.json"))
    assert record["command"].startswith("rs4d-bench")
    assert {"processor", "cores", "load_average", "time", "packages"} <= set(record["machine"])
    assert "| `plain (onnx fp32)` | 1.000 |" in (folder / "out" / "matrix.md").read_text()


def test_bundles_are_compared_without_torch(folder: Path) -> None:
    """And without anything else that only a workstation has: their import fails."""
    program = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxscript", "nncf", "safetensors", "openvino"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
sys.meta_path.insert(0, Block())
from rs4d_edge.commands.bench import main
main()
"""
    command = [sys.executable, "-c", program, "--matrix", "--data", str(folder / "val.json"), "--runs", "1"]
    done = subprocess.run([*command, str(folder / "plain")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "plain (onnx fp32): mask AP 1.000" in done.stdout
    model = subprocess.run([*command, "rs4d-edge-nano-bbox"], capture_output=True, text=True, check=False)
    assert model.returncode == 1
    assert 'pip install "rs4d-edge[quantize]"' in model.stderr and "torch" in model.stderr
    assert "Traceback" not in model.stderr


def test_what_does_not_go_together_is_named(folder: Path, tmp_path: Path) -> None:
    plain, data = folder / "plain", folder / "val.json"
    write_constant_bundle(tmp_path / "other", "int8", weights="1" * 64)
    for arguments, words in (
        (("--matrix", plain), "--data"),
        (("--matrix", plain, "--data", data, "--profile"), "--profile"),
        (("--matrix", plain, "--data", data, "--calib", data), "--calib"),
        (("--matrix", plain, "--data", data, "--json", tmp_path), "--json"),
        (("--matrix", plain, "--data", data, "--markdown", tmp_path), "--markdown"),
        (("--matrix", plain, tmp_path / "other", "--data", data), "one model"),
        (("--matrix", plain, "nano", "--data", data), "nano is no folder"),
        ((plain, "--data", data), "--data"),
        ((plain, "--markdown", tmp_path / "table.md"), "--markdown"),
    ):
        error = run(*arguments).exception
        assert isinstance(error, InputError), arguments
        assert words in str(error)
    assert isinstance(run("--matrix", folder / "images", "--data", data).exception, BundleError)
    assert isinstance(run("--matrix", plain, "--data", tmp_path / "absent.json").exception, DataError)
    assert isinstance(run("--matrix", plain, "--data", data, "--images", tmp_path).exception, DataError)


def test_data_of_other_classes_ends_it(folder: Path, tmp_path: Path) -> None:
    other = write_data(tmp_path, ("car", "tree", "house"))
    error = run("--matrix", folder / "plain", "--data", other).exception
    assert isinstance(error, DataError) and "different classes" in str(error)


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("rs4d_edge.evaluation", "rs4d_edge.training"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    error = run("--matrix", folder / "plain", "--data", folder / "val.json").exception
    assert isinstance(error, RuntimeUnavailable) and "pip install faster-coco-eval" in str(error)


def test_accuracy_is_shown_even_if_the_times_fail(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> dict[str, list[float]]:
        raise RuntimeFailure("out of luck")

    monkeypatch.setattr(bench_matrix, "time_in_turns", fail)
    result = run("--matrix", folder / "plain", "--data", folder / "val.json")
    assert result.exit_code == 0, result.exception
    assert "no times: out of luck" in result.output and "1.000" in result.output


class Clock:
    """Says that run number n took n milliseconds, and notes who ran on what."""

    def __init__(self, name: str, seen: list[tuple[str, int]]) -> None:
        self.name, self.seen = name, seen

    def run(self, frame: Frame) -> Any:
        self.seen.append((self.name, int(frame[0, 0, 0])))
        detections = square_detections()
        detections.timings = StageTimings(infer_ms=float(len(self.seen)))
        return detections


def test_turns_go_to_and_fro_over_the_frames_and_the_warm_up_does_not_count() -> None:
    seen: list[tuple[str, int]] = []
    clocks = {name: Clock(name, seen) for name in "ab"}
    frames = [golden_frame() * 0 + value for value in (5, 6)]
    times = take_turns(clocks, frames, runs=2, pause_s=0)
    rounds = [seen[start : start + 2] for start in range(0, len(seen), 2)]
    assert len(rounds) == WARM_UP_ROUNDS + 2
    assert rounds[0] == [("a", 5), ("b", 5)] and rounds[1] == [("b", 6), ("a", 6)]
    assert times == {"a": [8.0, 9.0], "b": [7.0, 10.0]}


def test_memory_that_cannot_be_measured_has_a_reason(folder: Path, tmp_path: Path) -> None:
    image = folder / "images" / "1.png"
    assert peak_memory(folder / "plain", 1, [image]).absent is None
    lost = peak_memory(tmp_path / "absent", 1, [image])
    assert lost.peak_bytes is None and "does not exist" in str(lost.absent)


def test_golden_frames_are_no_part_of_the_size(folder: Path) -> None:
    bundle = open_bundle(folder / "plain")
    assert model_bytes(bundle) == bundle.model_path.stat().st_size
