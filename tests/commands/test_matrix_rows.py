"""Ratios, lost classes and tables of the matrix, on given numbers."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from rs4d_edge.commands.matrix_rows import Row, lost_classes, records
from rs4d_edge.commands.matrix_tables import markdown, matrix_table, notes


def figures(mask_ap: float, **ap50: float | None) -> dict[str, Any]:
    per_class = {name: {"AP": value, "AP50": value} for name, value in ap50.items()}
    kind = {"AP": mask_ap, "AP50": mask_ap + 0.3, "per_class": per_class}
    return {"bbox": {**kind, "AP": mask_ap + 0.02}, "segm": kind}


def measured(what: str, times_ms: list[float], size: int, peak: int, found: dict[str, Any]) -> Row:
    target, precision = what.split()
    return Row(
        what, target, precision, model_bytes=size, figures=found, times_ms=times_ms, peak_bytes=peak, before_bytes=1
    )


@pytest.fixture
def rows() -> list[Row]:
    return [
        measured("onnx fp32", [50.0, 60.0, 1000.0], 8_000_000, 200_000_000, figures(0.5, ship=0.9, tank=0.8)),
        measured("onnx int8", [45.0, 48.0, 49.0], 2_400_000, 150_000_000, figures(0.49, ship=0.9, tank=0.77)),
        measured("cpu fp32", [40.0, 40.0, 41.0], 9_000_000, 250_000_000, figures(0.5, ship=0.9, tank=0.8)),
        Row("cpu bf16", "cpu", "bf16", refused="no bf16 | instructions"),
        measured("cpu int8", [30.0, 10.0, 90.0], 3_000_000, 100_000_000, figures(0.48, ship=0.85, tank=0.7)),
    ]


def test_ratios_are_to_fp32_of_the_same_target_and_to_the_fastest(rows: list[Row]) -> None:
    found = {record["what"]: record for record in records(rows)}
    assert [found[each]["latency_ratio"] for each in ("onnx fp32", "onnx int8", "cpu int8")] == [1.0, 0.8, 0.75]
    assert found["onnx fp32"]["latency_ratio_to_fastest_fp32"] == 1.5
    assert found["onnx int8"]["latency_ratio_to_fastest_fp32"] == 1.2
    assert found["onnx int8"]["size_ratio"] == pytest.approx(0.3)
    assert found["cpu int8"]["size_ratio"] == pytest.approx(1 / 3)
    assert found["onnx int8"]["peak_ratio"] == 0.75
    assert (found["onnx int8"]["mask"]["AP"], found["onnx int8"]["box"]["AP"]) == (0.49, 0.51)
    refused = found["cpu bf16"]
    assert refused["refused"] == "no bf16 | instructions"
    assert {refused[name] for name in ("p50_ms", "latency_ratio", "size_ratio", "peak_ratio")} == {None}


def test_without_fp32_there_is_no_ratio(rows: list[Row]) -> None:
    rows[2].refused, rows[2].times_ms = "the gate", []
    alone = records(rows)[4]
    assert (alone["latency_ratio"], alone["size_ratio"], alone["lost_classes"]) == (None, None, {})
    assert alone["latency_ratio_to_fastest_fp32"] == 0.5


def test_a_class_that_lost_more_than_the_limit_is_named(rows: list[Row]) -> None:
    assert lost_classes(rows[4], rows[2]) == {"tank": 0.1, "ship": 0.05}
    assert list(lost_classes(rows[4], rows[2])) == ["tank", "ship"]
    assert lost_classes(rows[1], rows[0]) == {}  # 0.8 - 0.77 is 0.03 and not more
    gained = measured("cpu bf16", [1.0], 1, 1, figures(0.6, ship=0.95, tank=None))
    assert lost_classes(gained, rows[2]) == {}


def record(rows: list[Row]) -> dict[str, Any]:
    machine = {
        "processor": "a processor",
        "cores": 2,
        "load_average": [0.5, 0.5, 0.5],
        "time": "2026-01-02T03:04:05+00:00",
        "packages": {"onnxruntime": "1.2"},
    }
    return {
        "command": "rs4d-bench --matrix tiny",
        "model": "tiny",
        "data": "data/val.json",
        "images": 3,
        "threads": 2,
        "runs": 3,
        "frames": 3,
        "machine": machine,
        "rows": records(rows),
    }


def test_the_tables_hold_every_row_and_name_what_was_lost(rows: list[Row]) -> None:
    rows[4].options = "--target cpu --precision int8 --calib train.json"
    shown = record(rows)
    lines = markdown(shown).splitlines()
    assert lines[0].startswith("`rs4d-bench --matrix tiny`: a processor, 2 cores, load 0.5 at the start, 2026-01-02")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(rows)
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert table[2].startswith("| `onnx fp32` | 0.520 | 0.500 | 0.800 | 60.0 ms | 1.50 | 8.0 MB | 200 MB |")
    assert "refused: no bf16 \\| instructions" in table[5]
    assert table[6].startswith("| `--target cpu --precision int8 --calib train.json` |")
    assert (
        "| 30.0 ms (0.75) | 0.75 | 3.0 MB (0.33) | 100 MB (0.40) | lost mask AP50: tank 0.100, ship 0.050 |" in table[6]
    )
    assert notes(shown["rows"]) == [
        "cpu bf16: refused: no bf16 | instructions",
        "cpu int8: lost mask AP50: tank 0.100, ship 0.050",
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(matrix_table(shown))
    text = console.export_text()
    words = ("onnx int8", "mask", "AP50", "of best", "peak", "refused", "0.480", "30.0", "0.75", "3.0", "0.33", "250")
    for word in words:
        assert word in text
