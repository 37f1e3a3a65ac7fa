"""`rs4d-verify --data`: average precision beside what the reference had, by the rule of the user's own limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from rs4d_edge.bundle import sha256_of
from rs4d_edge.commands.verify import app
from rs4d_edge.manifest import AccuracyOnData, AveragePrecision
from rs4d_edge.runtimes import table
from tests.stand_ins import CLASSES, KnownRuntime, outputs
from tests.test_verification import CONTRACT, proven_bundle

# In an input of 64x96, which is a frame's own size: an airplane where one is, and a bridge where a ship is.
ANSWER = outputs(CONTRACT, [[10, 8, 50, 40], [60, 30, 90, 60]], [0.9, 0.8], [0, 2])


def _open(name: str, path: Path, **options: Any) -> KnownRuntime:
    return KnownRuntime(CONTRACT, ANSWER)


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "open_runtime", _open)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two images with an airplane and a ship each, which fill their boxes."""
    images = [{"id": i, "width": 96, "height": 64, "file_name": f"{i}.png"} for i in (1, 2)]
    annotations: list[dict[str, Any]] = []
    for image in images:
        for category, (x, y, width, height) in ((1, (10, 8, 40, 32)), (2, (60, 30, 30, 30))):
            ring = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "segmentation": [ring],
                }
            )
    (tmp_path / "images").mkdir()
    for image in images:
        cv2.imwrite(str(tmp_path / "images" / str(image["file_name"])), np.full((64, 96, 3), 90, np.uint8))
    path = tmp_path / "val.json"
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def _bundle(folder: Path, accuracy: AccuracyOnData | None) -> Path:
    return proven_bundle(folder, _open("", folder), accuracy=accuracy)


def _recorded(data: Path, mask_ap: float) -> AccuracyOnData:
    figures = AveragePrecision(ap=0.5, ap50=0.5)
    return AccuracyOnData(
        annotations=data.name,
        annotations_sha256=sha256_of(data),
        images=2,
        boxes=figures,
        masks=figures.model_copy(update={"ap": mask_ap}),
    )


def _run(bundle: Path, data: Path, *options: str) -> tuple[int, dict[str, Any]]:
    record = bundle.parent / "record.json"
    result = CliRunner().invoke(app, [str(bundle), "--data", str(data), "--json", str(record), *options])
    return result.exit_code, json.loads(record.read_text())


@pytest.mark.parametrize(("reference_ap", "status"), [(0.505, 0), (0.52, 1)])
def test_the_drop_of_mask_ap_decides(data: Path, reference_ap: float, status: int) -> None:
    bundle = _bundle(data.parent / "bundle", _recorded(data, reference_ap))
    code, record = _run(bundle, data, "--max-drop", "0.01")
    # One class of the two that there are is found exactly, the other not at all.
    assert record["data"]["masks"]["ap"] == pytest.approx(0.5, abs=1e-3)
    assert record["data"]["masks"]["difference"] == pytest.approx(0.5 - reference_ap, abs=1e-3)
    low, high = record["data"]["boxes"]["ap_interval_95"]
    assert low <= record["data"]["boxes"]["ap"] + 1e-9 and high >= record["data"]["boxes"]["ap"] - 1e-9
    assert code == status and record["passed"] is (status == 0)


def test_without_a_limit_a_drop_is_only_shown(data: Path) -> None:
    bundle = _bundle(data.parent / "bundle", _recorded(data, 0.9))
    code, record = _run(bundle, data)
    assert code == 0 and record["data"]["masks"]["difference"] < -0.3


def test_figures_of_other_data_or_none_are_not_compared(data: Path) -> None:
    other = _recorded(data, 0.5).model_copy(update={"annotations_sha256": "1" * 64, "annotations": "other.json"})
    for number, (accuracy, reason) in enumerate(((None, "exported without --val"), (other, "other.json"))):
        bundle = _bundle(data.parent / f"bundle{number}", accuracy)
        code, record = _run(bundle, data)
        assert code == 0 and reason in record["data"]["not_compared"]
        assert record["data"]["masks"]["reference"] is None
        code, record = _run(bundle, data, "--max-drop", "0.01")
        assert code == 1 and "nothing to compare with" in record["checks"][-1]["found"]


def test_options_of_data_without_it_are_refused(data: Path) -> None:
    result = CliRunner().invoke(app, [str(data.parent), "--max-drop", "0.1"])
    assert result.exit_code == 1 and "belong to --data" in str(result.exception)
