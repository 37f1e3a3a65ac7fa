"""`rs4d-bench` with --duration and what goes with it, and --compare, as a device without torch runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rs4d_edge.bundle import sha256_of
from rs4d_edge.commands.bench import app, main
from rs4d_edge.commands.bench_compare import SLOWER
from rs4d_edge.commands.bench_device import seconds_of
from rs4d_edge.errors import BundleError, InputError, RS4DError, RuntimeUnavailable
from tests.bench.stand_ins import bundle_of, peer_of, record_of
from tests.commands.constant_bundles import write_constant_bundle

pytest.importorskip("onnxruntime")

SHORT = ("--duration", "0.3", "--threads", "1")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles that differ in what they find."""
    folder = tmp_path_factory.mktemp("device")
    write_constant_bundle(folder / "plain", "fp32")
    write_constant_bundle(folder / "small", "int8", found=1)
    return folder


@pytest.fixture(scope="module")
def measured(folder: Path) -> dict[str, Any]:
    pytest.importorskip("matplotlib")
    figures = {"source": "small", "data": "val.json", "bbox": {"AP": 0.5}, "segm": {"AP": 0.25}}
    (folder / "accuracy.json").write_text(json.dumps(figures))
    options = ("--streams", 2, "--deadline-ms", 1000, "--accuracy", folder / "accuracy.json")
    written = ("--json", folder / "out" / "bench.json", "--report", folder / "out" / "bench.html")
    result = run(folder / "plain", folder / "small", *SHORT, *options, *written)
    assert result.exit_code == 0, result.exception
    for text in ("plain: onnxruntime fp32", "small: onnxruntime int8", "warm-up", "2 streams", "than 1000 ms: 0"):
        assert text in result.output
    content: dict[str, Any] = json.loads((folder / "out" / "bench.json").read_text())
    return content


def test_every_bundle_has_all_figures(folder: Path, measured: dict[str, Any]) -> None:
    plain, small = measured["bundles"]
    assert (plain["objects"], small["objects"]) == (2, 1)
    assert plain["manifest_sha256"] == sha256_of(folder / "plain" / "manifest.json")
    for each in (plain, small):
        assert set(each["latency"]) == {"resize", "infer", "post", "mask", "total"}
        for figures in each["latency"].values():
            ranks = [figures[f"{name}_ms"] for name in ("p50", "p90", "p95", "p99", "max")]
            assert ranks == sorted(ranks)
        assert each["times"]["of"] == each["runs"] >= len(each["times"]["at_s"]) > 0
        assert each["deadline"] == {"deadline_ms": 1000, "misses": 0, "share": 0.0}
        assert [found["streams"] for found in each["streams"]] == [1, 2]
        assert each["masks_rendered"] and each["memory"]["peak_bytes"] > 1 << 20
    assert plain["accuracy"] is None and small["accuracy"]["mask_ap"] == 0.25


def test_the_machine_and_what_was_asked_are_recorded(measured: dict[str, Any]) -> None:
    assert measured["asked"] == {"seconds": 0.3, "soak": False, "streams": 2, "deadline_ms": 1000}
    assert measured["machine"]["packages"]["onnxruntime"]
    assert {"processor", "usable_cores", "governors", "power_mode", "os", "board", "gpus"} <= set(measured["machine"])


def test_a_page_is_made_of_a_record_alone(folder: Path, measured: dict[str, Any]) -> None:
    first = (folder / "out" / "bench.html").read_text()
    assert 'id="plot-distribution"' in first and 'id="plot-streams"' in first
    result = run(folder / "out" / "bench.json", "--report", folder / "again.html")
    assert result.exit_code == 0, result.exception
    assert (folder / "again.html").read_text() == first


def test_bundles_are_measured_without_torch_and_psutil(folder: Path, tmp_path: Path) -> None:
    """And without anything else that only a workstation has: their import fails."""
    program = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxscript", "nncf", "openvino", "psutil", "matplotlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
sys.meta_path.insert(0, Block())
from rs4d_edge.commands.bench import main
main()
"""
    command = [sys.executable, "-c", program, str(folder / "plain"), *SHORT, "--json", str(tmp_path / "bench.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"COLUMNS": "300"})
    assert done.returncode == 0, done.stderr
    assert (
        "not available here: memory, " in done.stdout and "psutil: the package psutil is not installed" in done.stdout
    )
    (record,) = json.loads((tmp_path / "bench.json").read_text())["bundles"]
    assert not any(series.startswith("memory:process") for series in record["sensors"]["series"])
    refused = subprocess.run([*command, "--report", "page.html"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "pip install matplotlib" in refused.stderr


def test_two_records_are_compared(tmp_path: Path) -> None:
    for name, scale, seed in (("a", 1.0, 0), ("b", 1.0, 1), ("c", 1.1, 2)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record_of(bundle_of(scale=scale, seed=seed))))
    same = run("--compare", tmp_path / "a.json", tmp_path / "b.json")
    assert same.exit_code == 0 and "nothing is slower by more than 5%" in same.output
    slower = run("--compare", tmp_path / "a.json", tmp_path / "c.json", "--json", tmp_path / "out.json")
    assert slower.exit_code == SLOWER == 3 and "slower by more than 5%, and beyond noise: bundle" in slower.output
    (found,) = json.loads((tmp_path / "out.json").read_text())["bundles"]
    assert found["slower"] and found["changes"][0]["finding"] == "slower"
    assert run("--compare", tmp_path / "a.json", tmp_path / "c.json", "--threshold", 0.2).exit_code == 0
    assert run("--compare", tmp_path / "c.json", tmp_path / "a.json").exit_code == 0


def test_bad_input_has_another_status_than_what_is_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text(json.dumps(record_of(bundle_of())))
    for arguments, status in (((tmp_path / "absent.json",), 1), ((tmp_path / "a.json", "--unknown"), 2)):
        monkeypatch.setattr(sys, "argv", ["rs4d-bench", "--compare", str(tmp_path / "a.json"), *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == status


def test_peers_are_compared_and_not_judged(tmp_path: Path) -> None:
    for name, scale in (("a", 1.0), ("b", 2.0)):
        record = record_of(bundle_of(), peers=[peer_of(scale=scale)])
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    result = run("--compare", tmp_path / "a.json", tmp_path / "b.json", "--json", tmp_path / "out.json")
    assert result.exit_code == 0 and "Peers have no part in the verdict" in result.output
    (found,) = json.loads((tmp_path / "out.json").read_text())["peers"]
    assert found["label"] == "peer: other" and found["changes"][0]["finding"] == "slower"


def test_what_the_quick_form_writes_can_be_compared(folder: Path, tmp_path: Path) -> None:
    for name in "ab":
        assert run(folder / "plain", "--runs", 20, "--threads", 1, "--json", tmp_path / f"{name}.json").exit_code == 0
    result = run("--compare", tmp_path / "a.json", tmp_path / "b.json", "--threshold", 1000)
    assert result.exit_code == 0, result.exception
    assert "infer, p50, ms" in result.output and "mask, p50" not in result.output
    assert isinstance(run(tmp_path / "a.json", "--report", tmp_path / "page.html").exception, RS4DError)


def test_what_does_not_go_together_is_named(folder: Path, tmp_path: Path) -> None:
    plain, small = folder / "plain", folder / "small"
    (tmp_path / "a.json").write_text(json.dumps(record_of(bundle_of())))
    for arguments, words in (
        ((plain, "--duration", "soon"), "--duration soon"),
        ((plain, "--duration", "0"), "--duration 0"),
        ((plain, "--soak", "30s"), "--soak 30s"),
        ((plain, "--soak", "5m", "--duration", "60"), "--duration and --soak"),
        ((plain, "--duration", "1", "--runs", "9"), "--runs"),
        ((plain, "--duration", "1", "--profile"), "--profile"),
        ((plain, "--streams", "2", "--json", tmp_path), "--json"),
        ((plain, "--report", tmp_path), "--report"),
        ((plain, plain, *SHORT), "twice"),
        ((plain, small, "--threshold", "0.1"), "--threshold"),
        (("--matrix", plain, "--soak", "5m"), "--soak"),
        (("--compare", plain), "--compare takes two"),
        (("--compare", "a", "b", "--soak", "5m"), "--soak"),
        ((tmp_path / "a.json", "--duration", "1"), "--report"),
        ((plain, *SHORT, "--accuracy", tmp_path / "absent.json"), "absent.json"),
    ):
        error = run(*arguments).exception
        assert isinstance(error, InputError), arguments
        assert words in str(error)
    assert isinstance(run(tmp_path / "absent", *SHORT).exception, BundleError)
    assert isinstance(run(plain, *SHORT, "--runtime", "none").exception, InputError | RuntimeUnavailable)


def test_times_are_read_with_their_units() -> None:
    assert [seconds_of(text, "--soak") for text in ("90", "90s", "1.5m", "2h")] == [90, 90, 90, 7200]
