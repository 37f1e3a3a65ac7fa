"""Shipped weights find what their model cards say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rs4d_edge.evaluation.coco import evaluate
from rs4d_edge.predictor import Predictor
from rs4d_edge.reference import load
from rs4d_edge.reference.shipped import shipped_names, shipped_path
from rs4d_edge.runtimes.torch_runtime import TorchRuntime

MEASURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
ROUNDING = 0.002  # other numbers of threads sum up in another order, and one detection more or less moves a class


def figures_of_card(name: str) -> dict[str, list[float]]:
    """The table's rows by their names: box, mask."""
    text = shipped_path(name).with_suffix(".md").read_text(encoding="utf-8")
    assert "| | " + " | ".join(MEASURES) + " |" in text
    rows = {}
    for kind in ("box", "mask"):
        row = re.search(rf"^\| {kind} \|(.*)\|$", text, re.MULTILINE)
        assert row is not None, f"{name} has no row {kind}"
        rows[kind] = [float(cell) for cell in row[1].split("|")]
    return rows


@pytest.mark.parametrize("name", shipped_names())
def test_every_card_has_its_figures_and_its_command(name: str) -> None:
    assert all(len(row) == len(MEASURES) for row in figures_of_card(name).values())
    text = shipped_path(name).with_suffix(".md").read_text(encoding="utf-8")
    for command in ("rs4d-train", f"rs4d-eval {name}"):
        assert command in text


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_names())
def test_the_weights_reach_the_figures_of_their_card(name: str, data_dir: Path) -> None:
    folder = data_dir / "nwpu_vhr10"
    model = load(name)
    with Predictor.over(TorchRuntime(model), model.contract) as predictor:
        found = evaluate(predictor, folder / "val.json", folder / "images")
    for kind, wanted in figures_of_card(name).items():
        measured = found["bbox" if kind == "box" else "segm"]
        assert [measured[measure] for measure in MEASURES] == pytest.approx(wanted, abs=ROUNDING), kind
