from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rs4d_edge.bench.accuracy import MEASURED, REFERENCE, accuracy_record, add_accuracy
from rs4d_edge.errors import InputError
from rs4d_edge.manifest import AccuracyOnData, AveragePrecision
from tests.bench.stand_ins import bundle_of
from tests.stand_ins import small_bundle


def write(path: Path, source: str, **changes: Any) -> Path:
    figures = {"source": source, "data": "data/val.json", "bbox": {"AP": 0.5}, "segm": {"AP": 0.25}, **changes}
    path.write_text(json.dumps(figures))
    return path


def test_what_the_manifest_tells_is_the_reference_s(tmp_path: Path) -> None:
    figures = AccuracyOnData(
        annotations="val.json",
        annotations_sha256="0" * 64,
        images=3,
        boxes=AveragePrecision(ap=0.5, ap50=0.75),
        masks=AveragePrecision(ap=0.25, ap50=0.5),
    )
    manifest = small_bundle(tmp_path / "plain")
    assert accuracy_record(manifest) is None
    told = accuracy_record(manifest.model_copy(update={"accuracy": figures}))
    assert told == {"mask_ap": 0.25, "box_ap": 0.5, "of": REFERENCE, "data": "val.json"}


def test_measured_figures_go_to_the_bundle_of_that_name(tmp_path: Path) -> None:
    records = [bundle_of("a"), bundle_of("b")]
    add_accuracy(records, [write(tmp_path / "b.json", "elsewhere/b")])
    assert records[0]["accuracy"] is None
    assert records[1]["accuracy"] == {"mask_ap": 0.25, "box_ap": 0.5, "of": MEASURED, "data": "val.json"}


def test_figures_of_nobody_and_other_files_are_refused(tmp_path: Path) -> None:
    for path in (write(tmp_path / "c.json", "c"), write(tmp_path / "d.json", "a", segm={}), tmp_path / "absent.json"):
        with pytest.raises(InputError, match=path.name):
            add_accuracy([bundle_of("a")], [path])
    (tmp_path / "e.json").write_text("[1]")
    with pytest.raises(InputError, match=r"e\.json"):
        add_accuracy([bundle_of("a")], [tmp_path / "e.json"])
