from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rs4d_edge.errors import DataError
from rs4d_edge.training.run_metrics import RunMetrics, read_metrics


def train(step: int, loss: float = 1.0) -> dict[str, Any]:
    numbers = {"lr": 1e-3, "norm": 2.0, "size": 64, "images_per_s": 5.0, "waiting": 0.1}
    return {"kind": "train", "step": step, "progress": 0.5, "loss": loss, "mask": loss / 2, **numbers}


def val(step: int, ap: float | None) -> dict[str, Any]:
    part = {"AP": ap, "AP50": ap, "per_class": {"ship": {"AP": ap, "AP50": ap}}}
    return {"kind": "val", "step": step, "elapsed_s": 1.5, "images": 2, "bbox": part, "segm": part}


def read(folder: Path, *records: Any, tail: str = "") -> RunMetrics:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return read_metrics(path)


def test_losses_are_what_has_no_name_of_its_own(tmp_path: Path) -> None:
    metrics = read(tmp_path, train(20, 3.0), {"kind": "held out", "step": 20}, val(20, 0.25))
    (record,) = metrics.train
    assert record.losses == {"loss": 3.0, "mask": 1.5}
    assert (record.step, record.lr, record.waiting) == (20, 1e-3, 0.1)
    assert metrics.evaluations[0].segm.per_class["ship"].AP50 == 0.25
    assert metrics.unreadable == 0


def test_numbers_that_are_none_are_kept_as_such(tmp_path: Path) -> None:
    metrics = read(tmp_path, {**train(20), "loss": math.nan, "norm": math.inf})
    assert math.isnan(metrics.train[0].losses["loss"])
    assert metrics.train[0].norm == math.inf


def test_the_best_is_the_first_with_the_highest_mask_ap(tmp_path: Path) -> None:
    metrics = read(tmp_path, val(10, None), val(20, 0.3), val(30, 0.3), val(40, 0.2))
    assert metrics.best is not None
    assert metrics.best.step == 20
    assert read(tmp_path).best is None


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    metrics = read(tmp_path, train(20), train(40), tail=json.dumps(train(60))[:70])
    assert [record.step for record in metrics.train] == [20, 40]
    assert metrics.unreadable == 1


@pytest.mark.parametrize(
    "line", ["[1, 2]", "7", '{"step": 3}', '{"kind": "train"}', '{"kind": "val", "step": 1}', "ü\0"]
)
def test_lines_that_are_no_records_are_left_out(tmp_path: Path, line: str) -> None:
    metrics = read(tmp_path, train(20), tail=f"{line}\n")
    assert (len(metrics.train), len(metrics.evaluations), metrics.unreadable) == (1, 0, 1)


def test_what_a_resumed_run_did_again_counts_once(tmp_path: Path) -> None:
    """Killed after step 60, resumed from step 30."""
    first = [train(20), val(25, 0.1), train(40), val(50, 0.9), train(60)]
    metrics = read(tmp_path, *first, train(40, 7.0), val(50, 0.2), train(60, 8.0))
    assert [(record.step, record.losses["loss"]) for record in metrics.train] == [(20, 1.0), (40, 7.0), (60, 8.0)]
    assert [(each.step, each.segm.AP) for each in metrics.evaluations] == [(25, 0.1), (50, 0.2)]


def test_an_evaluation_does_not_displace_its_step_s_record(tmp_path: Path) -> None:
    metrics = read(tmp_path, train(20), val(20, 0.1), train(40), val(20, 0.2))
    assert [record.step for record in metrics.train] == [20]
    assert [each.segm.AP for each in metrics.evaluations] == [0.2]


def test_a_matrix_that_is_not_square_is_no_record(tmp_path: Path) -> None:
    confusion = {"classes": ["a", "b"], "matrix": [[1, 2], [3, 4]], "score_threshold": 0.3, "iou_threshold": 0.5}
    assert read(tmp_path, {**val(20, 0.5), "confusion": confusion}).unreadable == 1


def test_a_folder_without_metrics_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.jsonl cannot be read"):
        read_metrics(tmp_path / "metrics.jsonl")
