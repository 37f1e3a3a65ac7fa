"""Every fault that a bundle or a machine can have is found, and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rs4d_edge.bundle import open_bundle
from rs4d_edge.commands.verify import app
from rs4d_edge.errors import ParityError
from rs4d_edge.export.recipes import Precision
from rs4d_edge.export.tolerances import TOLERANCES
from rs4d_edge.manifest import MANIFEST_NAME
from rs4d_edge.predictor import Predictor
from rs4d_edge.runtimes import table
from rs4d_edge.verification import Outcome, Verification, verify
from tests.stand_ins import KnownRuntime, contract, golden_frame, outputs, parity, small_bundle

CONTRACT = contract(detections=8)  # more than are found: no list is full
BOXES: list[list[float]] = [[10, 8, 50, 40], [2, 2, 20, 20], [40, 30, 60, 60]]
SCORES, LABELS = [0.9, 0.6, 0.5], [2, 0, 1]
LIMITS = TOLERANCES[Precision.FP32]


class Engine:
    """Answers as the reference did, unless a test changes `boxes`, `scores`, `labels` or `nan`."""

    def __init__(self) -> None:
        self.boxes, self.scores, self.labels = [list(box) for box in BOXES], list(SCORES), list(LABELS)
        self.nan = False
        self.opened: list[KnownRuntime] = []

    def open(self, name: str, path: Path, **options: Any) -> KnownRuntime:
        answer = outputs(CONTRACT, self.boxes, self.scores, self.labels)
        if self.nan:
            answer["boxes"][0, 0, 0] = np.nan
        self.opened.append(KnownRuntime(CONTRACT, answer))
        return self.opened[-1]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr(table, "open_runtime", made.open)
    return made


def proven_bundle(folder: Path, runtime: KnownRuntime, **changes: Any) -> Path:
    """A bundle of `CONTRACT` whose reference answers as `runtime` does."""
    with Predictor.over(runtime, CONTRACT) as predictor:
        golden = predictor.run(golden_frame())
    record = parity().model_copy(update={"tolerances": LIMITS.model_dump()})
    small_bundle(folder, golden=golden, contract=CONTRACT, parity=record, **changes)
    return folder


@pytest.fixture
def bundle(tmp_path: Path, engine: Engine) -> Path:
    return proven_bundle(tmp_path / "bundle", engine.open("", tmp_path), tools={"onnxruntime": "0.0.1"})


def failure(result: Verification) -> str:
    """What the one check that failed has found; it is the last one."""
    assert not result.passed
    assert [check.outcome is Outcome.FAILED for check in result.checks].index(True) == len(result.checks) - 1
    return result.checks[-1].found


def test_a_sound_bundle_is_proven(bundle: Path) -> None:
    result = verify(bundle)
    assert result.passed
    assert result.checks[-1].found.startswith("3 of 3 matched on 1 frames")
    (version,) = [check for check in result.checks if check.what.startswith("version")]
    assert version.outcome is Outcome.NOTICE and "exported with 0.0.1" in version.found
    assert json.loads(json.dumps(result.record(), allow_nan=False))["detections"]["matched"] == 3


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_anywhere_is_found_and_its_file_named(bundle: Path, engine: Engine, seed: int) -> None:
    rng = np.random.default_rng(seed)
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    opened = len(engine.opened)
    for path in files:
        content = bytearray(path.read_bytes())
        place, bit = int(rng.integers(len(content))), int(rng.integers(8))
        content[place] ^= 1 << bit
        path.write_bytes(content)
        assert path.name in failure(verify(bundle)), (place, bit)
        content[place] ^= 1 << bit
        path.write_bytes(content)
    assert len(engine.opened) == opened  # nothing damaged was ever loaded
    assert verify(bundle).passed


def test_all_damaged_files_are_named_at_once(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"another model")
    (bundle / "golden" / "frame_0.png").unlink()
    found = failure(verify(bundle))
    assert "model.onnx is longer" in found or "model.onnx is cut short" in found
    assert "lacks golden/frame_0.png" in found


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda manifest: manifest["contract"].update(score_threshold=0.3), "contract.score_threshold"),
        (lambda manifest: manifest["contract"]["classes"].reverse(), "contract.classes"),
        (lambda manifest: manifest.update(precision="int8"), "precision"),
        (lambda manifest: manifest["parity"]["tolerances"].update(box_px=1e9), "parity"),
    ],
)
def test_an_edited_manifest_is_found_and_the_entry_named(bundle: Path, change: Any, named: str) -> None:
    path = bundle / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    assert f"was edited after the export: {named}" in failure(verify(bundle))


def test_a_detection_that_moved_or_is_gone_is_found(bundle: Path, engine: Engine) -> None:
    engine.boxes[0][0] += 2
    assert "1 pairs moved: bridge of frame 0" in failure(verify(bundle))
    engine.boxes[0][0] -= 2
    engine.scores[1] += 0.01
    assert "airplane of frame 0 by 0.00 px, 1.0e-02 in score" in failure(verify(bundle))
    engine.scores[1] -= 0.01
    engine.labels[2] = 0
    assert "2 of 6 detections have no partner" in failure(verify(bundle))
    engine.labels[2] = 1
    assert verify(bundle).passed


def test_a_detection_at_the_threshold_is_excused(bundle: Path, engine: Engine) -> None:
    engine.boxes.append([70, 5, 90, 30])
    engine.scores.append(CONTRACT.score_threshold + 5e-4)
    engine.labels.append(1)
    result = verify(bundle)
    assert result.passed and result.golden is not None and result.golden.excused == 1
    engine.scores[-1] += 0.1
    assert "1 of 7 detections have no partner" in failure(verify(bundle))


def test_an_engine_that_answers_with_nan_fails(bundle: Path, engine: Engine) -> None:
    engine.nan = True
    assert "NaN" in failure(verify(bundle))
    assert engine.opened[-1].closed


def test_limits_of_another_version_are_refused(bundle: Path, tmp_path: Path) -> None:
    ((_, golden),) = open_bundle(bundle).golden()
    small_bundle(tmp_path / "old", golden=golden, contract=CONTRACT)  # whose limits are not ours
    assert "another version of rs4d-edge" in failure(verify(tmp_path / "old"))


def test_a_predictor_tests_itself_with_the_models_own_threshold(bundle: Path, engine: Engine) -> None:
    with Predictor(bundle, self_test=True, score_threshold=0.7) as predictor:
        assert len(predictor.run(golden_frame())) == 1
    engine.boxes[1][3] += 1
    with pytest.raises(ParityError, match=r"self-test of .* 1 pairs moved: airplane"):
        Predictor(bundle, self_test=True)
    assert engine.opened[-1].closed
    Predictor(bundle).close()


def test_the_command_ends_with_a_status_and_a_record(bundle: Path, engine: Engine, tmp_path: Path) -> None:
    json_path = tmp_path / "record.json"
    result = CliRunner().invoke(app, [str(bundle), "--json", str(json_path)])
    assert result.exit_code == 0 and "proven" in result.output
    assert json.loads(json_path.read_text())["passed"] is True
    engine.boxes[0][0] += 2
    result = CliRunner().invoke(app, [str(bundle), "--json", str(json_path)])
    assert result.exit_code == 1 and "not proven" in result.output
    record = json.loads(json_path.read_text())
    assert record["passed"] is False and record["moved"]
    result = CliRunner().invoke(app, [str(tmp_path / "nowhere"), "--json", str(json_path)])
    assert result.exit_code == 1
    (check,) = json.loads(json_path.read_text())["checks"]
    assert check["outcome"] == "failed" and "does not exist" in check["found"]


def test_what_lies_at_the_recorded_cut_may_be_missing(tmp_path: Path, engine: Engine) -> None:
    full = engine.open("", tmp_path)
    cut = SCORES[-1] + LIMITS.cut_margin / 2
    for name, recorded in (("full", cut), ("not_full", None)):
        proven_bundle(tmp_path / name, full, cut=recorded)
    engine.boxes, engine.scores, engine.labels = BOXES[:-1], SCORES[:-1], LABELS[:-1]
    assert verify(tmp_path / "full").passed
    assert not verify(tmp_path / "not_full").passed
    assert open_bundle(tmp_path / "full").manifest.golden[0].cut == cut
