from __future__ import annotations

from pathlib import Path
from typing import Any

from rs4d_edge.training.augment import AugmentConfig
from rs4d_edge.training.card import write_card
from rs4d_edge.training.instances import InstanceDataset
from rs4d_edge.training.settings import TrainSettings, parse_sizes
from rs4d_edge.training.trainer import TrainResult
from tests.training.test_trainer import CONFIG

DATASET = InstanceDataset("ponds-train", CONFIG.classes, ())


def part(value: float) -> dict[str, Any]:
    figures = {"AP": value, "AP50": value + 0.1, "AP75": value, "APs": value, "APm": value, "APl": None}
    per_class = {"square": {"AP": value, "AP50": value + 0.2}, "bar": {"AP": None, "AP50": None}}
    return {**figures, "per_class": per_class}


def test_it_tells_data_schedule_seed_and_figures(tmp_path: Path) -> None:
    settings = TrainSettings(
        max_minutes=12.5, seed=41, lr=5e-4, sizes=parse_sizes("64:0.5,96:0.5"), augment=AugmentConfig(mosaic=0.125)
    )
    best = {"step": 77, "images": 5, "bbox": part(0.25), "segm": part(0.375)}
    result = TrainResult(90, 754.0, True, best=best)
    text = write_card(tmp_path, CONFIG, settings, DATASET, result, (Path("ponds/val.json"), Path("ponds"))).read_text()
    for fact in (
        *(
            "# tiny",
            "ponds-train",
            "square, bar",
            "12.5 minutes",
            "90 steps",
            "12.6 minutes",
            "64 px (0.5), 96 px (0.5)",
        ),
        *("Seed: 41", "0.0005", '"mosaic":0.125', "step 77", "`val.json`, 5 images"),
        "| box | 0.250 | 0.350 | 0.250 | 0.250 | 0.250 | - |",
        "| mask | 0.375 | 0.475 | 0.375 | 0.375 | 0.375 | - |",
        "| square | 0.450 | 0.575 | 0.375 |",
        "| bar | - | - | - |",
    ):
        assert fact in text
    assert [path.name for path in tmp_path.iterdir()] == ["model_card.md"]


def test_it_claims_no_figures_without_an_evaluation(tmp_path: Path) -> None:
    text = write_card(tmp_path, CONFIG, TrainSettings(epochs=3), DATASET, TrainResult(9, 60, True), None).read_text()
    assert "3 epochs" in text
    assert "Not evaluated" in text
    assert "AP50" not in text
